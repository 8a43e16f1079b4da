from libc.stdint cimport uint64_t

from fastcas.native.algorithm cimport fc_algorithm
from fastcas.native.lanes cimport fc_sha256_kernel
from fastcas.native.stream cimport FC_DIGEST_MAX

cdef extern from "many.h" nogil:
    enum:
        FC_ESKIPPED
        FC_EKIND

    ctypedef enum fc_many_kind:
        FC_MEMORY
        FC_FILE
        FC_NAME

    ctypedef struct fc_many_item:
        fc_many_kind kind
        int fd
        const char *name
        const unsigned char *data
        uint64_t size
        uint64_t found
        int status
        unsigned char digest[FC_DIGEST_MAX]
        unsigned char checksum[FC_DIGEST_MAX]

    ctypedef struct fc_many:
        fc_many_item *items
        size_t count
        const fc_sha256_kernel *kernel
        const fc_algorithm *algorithm
        const fc_algorithm *checksum
        int threads
        int stop_at_failure
        uint64_t hashed
        size_t failed

    int fc_many_open(fc_many *many)
    int fc_many_run(fc_many *many)
    void fc_many_close(fc_many *many)
