from libc.stdint cimport uint64_t

from fastcas.native.algorithm cimport fc_algorithm
from fastcas.native.lanes cimport fc_sha256_kernel
from fastcas.native.small cimport fc_small_place
from fastcas.native.stream cimport FC_DIGEST_MAX

cdef extern from "store.h" nogil:
    enum:
        FC_STORE_THREADS
        FC_EUNBEGUN

    ctypedef struct fc_item:
        const unsigned char *data
        const char *path
        uint64_t size
        int fd
        int status
        int reading
        char name[2 * FC_DIGEST_MAX + 1]
        int summed
        unsigned char checksum[FC_DIGEST_MAX]

    ctypedef struct fc_seat:
        unsigned char *slab

    ctypedef struct fc_store:
        const fc_small_place *to
        int place
        fc_item *items
        const fc_sha256_kernel *kernel
        const fc_algorithm *algorithm
        const fc_algorithm *checksum
        uint64_t taken
        size_t failed
        size_t count
        fc_seat seat[FC_STORE_THREADS]

    int fc_store_open(fc_store *store)
    void fc_store_add(fc_store *store)
    void fc_store_start(fc_store *store)
    int fc_store_run(fc_store *store)
    void fc_store_close(fc_store *store)
    void fc_store_publish(fc_item *item, int place)
