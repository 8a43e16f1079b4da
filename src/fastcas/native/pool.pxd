cdef extern from "pool.h" nogil:
    ctypedef int (*fc_step)(void *context, int seat) noexcept nogil

    ctypedef struct fc_pool:
        int helpers

    void fc_pool_start(fc_pool *pool, fc_step step, void *context, int threads)
    int fc_pool_run(fc_pool *pool)
    void fc_pool_stop(fc_pool *pool)
