from fastcas.native.small cimport fc_small_place
from fastcas.native.stream cimport FC_DIGEST_MAX, fc_hasher

cdef extern from "group.h" nogil:
    enum:
        FC_GROUP_THREADS

    ctypedef struct fc_item:
        const unsigned char *data
        const char *path
        size_t size
        int fd
        int status
        char name[2 * FC_DIGEST_MAX + 1]

    ctypedef struct fc_seat:
        fc_hasher hasher
        unsigned char *slab

    ctypedef struct fc_group:
        const fc_small_place *to
        int place
        fc_item *items
        size_t count
        int publish
        fc_seat seat[FC_GROUP_THREADS]

    size_t fc_group_chunks(const fc_group *group)
    void fc_group_store(void *group, size_t chunk, int seat)
    void fc_group_publish(void *group, size_t item, int seat)

    ctypedef struct fc_files:
        const int *fds
        int *statuses
        size_t count

    void fc_files_kick(void *files, size_t file, int seat)
    void fc_files_sync(void *files, size_t file, int seat)
