from libc.stdint cimport int64_t

cdef extern from "sys.h" nogil:
    int fc_openat2(int dirfd, const char *name, int flags, unsigned mode)
    int fc_open_regular(int dirfd, const char *name, int64_t *size)
    int fc_link_fd(int fd, int dirfd, const char *name)
    int fc_same_file(int fd, int other)
    int fc_read_names(int dirfd, char *buffer, size_t size)
    int fc_is_hex(const char *name, size_t digits)
    const char *fc_next_name(const char *buffer, int *offset, int *regular)
    size_t fc_count_pair(const char *data, size_t size, char first, char second)
