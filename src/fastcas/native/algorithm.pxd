cdef extern from "algorithm.h" nogil:
    ctypedef struct fc_algorithm:
        int digest_size
        void *(*begin)(const fc_algorithm *algorithm) noexcept nogil
        void *(*copy)(const void *state) noexcept nogil
        void (*end)(void *state) noexcept nogil
        int (*reset)(void *state) noexcept nogil
        int (*update)(void *state, const void *data, size_t size) noexcept nogil
        int (*final)(void *state, unsigned char *digest) noexcept nogil
