#define _GNU_SOURCE
#include "pool.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

enum { STACK_SIZE = 128 << 10, PATIENCE_NS = 100000000 };

static int is_stopped(const fc_pool *pool)
{
    return __atomic_load_n(&pool->stop, __ATOMIC_ACQUIRE);
}

static void *work(void *argument)
{
    fc_pool *pool = *(fc_pool **)argument;
    int seat = (int)((__typeof__(&pool->seat[0]))argument - pool->seat);

    while (!is_stopped(pool) && pool->step(pool->context, seat))
        ;
    pthread_mutex_lock(&pool->mutex);
    pool->running--;
    pthread_cond_signal(&pool->ended);
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

void fc_pool_start(fc_pool *pool, fc_step step, void *context, int threads)
{
    pthread_condattr_t attributes;

    memset(pool, 0, sizeof *pool);
    pool->step = step;
    pool->context = context;
    pool->owner = getpid();
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->ended, &attributes);
    pthread_condattr_destroy(&attributes);
    if (threads > FC_POOL_MAX)
        threads = FC_POOL_MAX;
    for (int seat = 1; seat < threads; seat++) {
        pool->seat[seat].pool = pool;
        pthread_mutex_lock(&pool->mutex);
        pool->running++;
        pthread_mutex_unlock(&pool->mutex);
        if (fc_thread(&pool->seat[seat].thread, STACK_SIZE, threads == 2, work, &pool->seat[seat])) {
            pthread_mutex_lock(&pool->mutex);
            pool->running--;
            pthread_mutex_unlock(&pool->mutex);
            break; /* no more to be had */
        }
        pool->helpers = seat;
    }
}

static void join(fc_pool *pool)
{
    for (int seat = 1; seat <= pool->helpers; seat++)
        pthread_join(pool->seat[seat].thread, NULL);
    pthread_cond_destroy(&pool->ended);
    pthread_mutex_destroy(&pool->mutex);
    pool->owner = 0;
}

/* 1: a tenth of a second went by. */
static int wait_for_helpers(fc_pool *pool)
{
    struct timespec until;
    int late = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PATIENCE_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&pool->mutex);
    while (pool->running && !late)
        late = pthread_cond_timedwait(&pool->ended, &pool->mutex, &until) != 0;
    late = pool->running > 0;
    pthread_mutex_unlock(&pool->mutex);
    return late;
}

int fc_pool_run(fc_pool *pool)
{
    uint64_t deadline = fc_deadline();

    if (pool->owner != getpid())
        return FC_EFORKED;
    while (pool->step(pool->context, 0))
        if (fc_past(deadline))
            return 1;
    if (wait_for_helpers(pool))
        return 1;
    join(pool);
    return 0;
}

void fc_pool_stop(fc_pool *pool)
{
    if (pool->owner != getpid())
        return; /* the end was reached, or the threads are the parent's */
    __atomic_store_n(&pool->stop, 1, __ATOMIC_RELEASE);
    join(pool);
}
