cdef extern from "files.h" nogil:
    enum:
        FC_KICK_THREADS
        FC_SYNC_THREADS

    ctypedef struct fc_files:
        const int *fds
        int *statuses
        size_t count
        size_t next

    int fc_files_kick(void *files, int seat)
    int fc_files_sync(void *files, int seat)
