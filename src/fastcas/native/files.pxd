cdef extern from "files.h" nogil:
    ctypedef struct fc_files:
        const int *fds
        int *statuses
        size_t count
        size_t next

    void fc_files_kick(fc_files *files)
    int fc_files_sync(void *files, int seat)
