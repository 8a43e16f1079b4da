from fastcas.native.algorithm cimport fc_algorithm

cdef extern from "evp.h" nogil:
    int fc_evp_load(const char *hashlib_path)
    const char *fc_evp_version()
    const fc_algorithm *fc_evp_fetch(const char *name)
    void fc_evp_reason(char *text, size_t size)
