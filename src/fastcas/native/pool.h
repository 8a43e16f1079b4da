/* Work that several threads do step by step. They begin with fc_pool_start and have ended when fc_pool_run returns 0 or
   fc_pool_stop returns. The caller's own thread is one of them, while it is in fc_pool_run. */
#ifndef FASTCAS_POOL_H
#define FASTCAS_POOL_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { FC_POOL_MAX = 64 };

/* Does some of it, a tenth of a second at most where nothing blocks. 0: there is nothing left to do for this thread. `seat` tells
   the threads apart: from 0 on, the caller's is 0. */
typedef int (*fc_step)(void *context, int seat);

typedef struct fc_pool fc_pool;

struct fc_pool {
    fc_step step;
    void *context;
    int stop;
    int helpers, running; /* started; not ended yet */
    pid_t owner;
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    struct {
        fc_pool *pool;
        pthread_t thread;
        int seat;
    } seat[FC_POOL_MAX];
};

/* Begins with `threads` threads, the caller's included: fewer where no more can be had. */
void fc_pool_start(fc_pool *pool, fc_step step, void *context, int threads);
/* Takes part for a tenth of a second. 1: call again; 0: all done; FC_EFORKED: the threads stayed in the parent. */
int fc_pool_run(fc_pool *pool);
/* Ends it after the steps that are under way; harmless after the end, or where it was never started (all zeros). */
void fc_pool_stop(fc_pool *pool);

#endif
