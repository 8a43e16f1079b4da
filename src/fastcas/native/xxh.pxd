from fastcas.native.algorithm cimport fc_algorithm

cdef extern from "xxh.h" nogil:
    const fc_algorithm *fc_xxh_load(const char *module_path)
