from fastcas.native.stream cimport FC_DIGEST_MAX, fc_hasher

cdef extern from "fetch.h" nogil:
    enum:
        FC_FETCH_THREADS

    ctypedef struct fc_wanted:
        const char *name
        size_t size
        unsigned char *data
        unsigned char expected[FC_DIGEST_MAX]
        int done

    ctypedef struct fc_fetch:
        int directory
        fc_wanted *items
        size_t count
        fc_hasher hasher[FC_FETCH_THREADS]

    size_t fc_fetch_chunks(const fc_fetch *fetch)
    void fc_fetch_read(void *fetch, size_t chunk, int seat)
