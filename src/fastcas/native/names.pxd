from libc.stdint cimport int64_t, uint64_t

cdef extern from "names.h" nogil:
    ctypedef struct fc_place:
        const char *name
        int fd
        int status
        unsigned mode
        int64_t size
        int64_t modified
        int64_t changed

    void fc_names_stat(int dirfd, fc_place *places, size_t count)
    size_t fc_names_open(int dirfd, fc_place *places, size_t count, uint64_t deadline)
    size_t fc_names_unlink(int dirfd, fc_place *places, const size_t *chosen, size_t count, uint64_t deadline)
