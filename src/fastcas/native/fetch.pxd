from fastcas.native.algorithm cimport fc_algorithm
from fastcas.native.stream cimport fc_hasher

cdef extern from "fetch.h" nogil:
    enum:
        FC_FETCH_CHUNK
        FC_FETCH_THREADS

    ctypedef struct fc_wanted:
        const char *name
        size_t size
        unsigned char *data
        int done

    ctypedef struct fc_fetch:
        int directory
        fc_wanted *items
        size_t count
        size_t next
        fc_hasher hashers[2]
        const fc_algorithm *algorithm

    int fc_fetch_read(void *context, int seat)
