cdef extern from "lanes.h" nogil:
    ctypedef struct fc_sha256_kernel:
        const char *name
        int lanes

    const fc_sha256_kernel *fc_sha256_supported(size_t number)
