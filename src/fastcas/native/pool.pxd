cdef extern from "pool.h" nogil:
    ctypedef void (*fc_task)(void *context, size_t number, int seat) noexcept nogil

    enum:
        FC_POOL_MAX

    ctypedef struct fc_pool:
        pass

    void fc_pool_start(fc_pool *pool, fc_task task, void *context, size_t count, int threads)
    int fc_pool_run(fc_pool *pool)
    void fc_pool_stop(fc_pool *pool)
