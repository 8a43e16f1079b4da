#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

/* libcrypto's digests need a few hundred bytes of stack; a hashlib object's update needs an interpreter's. */
enum { STACK_SIZE = 512 << 10, LINGER = 4000, NAP_NS = 100000 };

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() __asm__ volatile("" ::: "memory")
#endif

/* Threads of this process that are at work on streams now: callers within a section, helpers that hash. */
static int busy;

void fc_work(int change)
{
    __atomic_fetch_add(&busy, change, __ATOMIC_RELAXED);
}

/* In a forked child no thread is within a section: who forks holds the GIL, and the others weren't copied. */
static void forget_others(void)
{
    __atomic_store_n(&busy, 0, __ATOMIC_RELAXED);
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_others);
}

/* Whether a processor would be left for one thread more. Without one a helper only takes turns with those that hash
   already: two streams that each hash for themselves fill two processors, four threads on them come to less. */
static int has_spare_processor(void)
{
    cpu_set_t allowed;

    return sched_getaffinity(0, sizeof allowed, &allowed) ||
           __atomic_load_n(&busy, __ATOMIC_RELAXED) < CPU_COUNT(&allowed);
}

/* Looks for a piece for about as long as one takes to hash. Sleeping at once would make the caller wake us for each
   piece, at a tenth of the price of hashing it, whenever the two are about equally quick. */
static void linger(fc_ring *ring)
{
    for (int i = 0; i < LINGER; i++) {
        if (__atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) != ring->tail || __atomic_load_n(&ring->stop, __ATOMIC_ACQUIRE))
            return;
        PAUSE();
    }
}

static void *hash_pieces(void *argument)
{
    fc_ring *ring = argument;

    fc_work(1);
    pthread_mutex_lock(&ring->mutex);
    for (;;) {
        if (ring->tail == ring->head && !ring->stop) {
            fc_work(-1);
            while (ring->tail == ring->head && !ring->stop)
                pthread_cond_wait(&ring->queued, &ring->mutex);
            fc_work(1);
        }
        if (ring->tail == ring->head)
            break;
        const void *data = ring->piece[ring->tail % FC_SLOTS].data;
        size_t size = ring->piece[ring->tail % FC_SLOTS].size;
        pthread_mutex_unlock(&ring->mutex);
        int status = ring->hasher.update(ring->hasher.state, data, size);
        pthread_mutex_lock(&ring->mutex);
        if (status)
            __atomic_store_n(&ring->status, status, __ATOMIC_RELEASE);
        __atomic_store_n(&ring->tail, ring->tail + 1, __ATOMIC_RELEASE);
        if (ring->tail == ring->head && !ring->stop) {
            pthread_mutex_unlock(&ring->mutex);
            linger(ring);
            pthread_mutex_lock(&ring->mutex);
        }
    }
    pthread_mutex_unlock(&ring->mutex);
    fc_work(-1);
    __atomic_store_n(&ring->ended, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* A thread may run wherever the caller may, but not on the processor where the caller is now: with few of them the
   scheduler else leaves both on one for seconds. */
static void keep_off_this_cpu(pthread_attr_t *attributes)
{
    cpu_set_t allowed;
    int here = sched_getcpu();

    if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) < 2)
        return;
    CPU_CLR(here, &allowed);
    pthread_attr_setaffinity_np(attributes, sizeof allowed, &allowed);
}

int fc_thread(pthread_t *thread, size_t stack, int elsewhere, void *(*function)(void *), void *argument)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int error;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack);
    if (elsewhere)
        keep_off_this_cpu(&attributes);
    /* Signals are for the threads that can act on them: the caller's reads must see EINTR. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(thread, &attributes, function, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -error;
}

static int start(fc_ring *ring, fc_hasher hasher)
{
    int status;

    memset(ring, 0, sizeof *ring);
    ring->hasher = hasher;
    pthread_mutex_init(&ring->mutex, NULL);
    pthread_cond_init(&ring->queued, NULL);
    status = fc_thread(&ring->thread, STACK_SIZE, 1, hash_pieces, ring);
    if (!status)
        ring->owner = getpid();
    return status;
}

/* Until a place in the queue is free. Not by a signal from the hasher: waking us costs it some per cent of its time, and
   the scheduler then likes to put us on the hasher's processor, where one of the two waits for the other. A timer
   wakes us where we went to sleep, long before the queue is empty. */
static int wait_for_place(fc_ring *ring)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};

    if (ring->owner != getpid())
        return FC_EFORKED;
    while (ring->head - __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) >= FC_SLOTS)
        nanosleep(&nap, NULL);
    return __atomic_load_n(&ring->status, __ATOMIC_ACQUIRE);
}

/* The thread ends when all that was queued is hashed, and then touches nothing here any more. To sleep and to be woken
   takes longer than what it has left often does. */
static void end(fc_ring *ring)
{
    pthread_mutex_lock(&ring->mutex);
    __atomic_store_n(&ring->stop, 1, __ATOMIC_RELEASE);
    pthread_cond_signal(&ring->queued);
    pthread_mutex_unlock(&ring->mutex);
    for (int i = 0; i < LINGER && !__atomic_load_n(&ring->ended, __ATOMIC_ACQUIRE); i++)
        PAUSE();
    if (__atomic_load_n(&ring->ended, __ATOMIC_ACQUIRE))
        pthread_detach(ring->thread);
    else
        pthread_join(ring->thread, NULL);
    pthread_cond_destroy(&ring->queued);
    pthread_mutex_destroy(&ring->mutex);
}

void fc_lane_init(fc_lane *lane, fc_hasher hasher, unsigned char *slab, int64_t expected)
{
    memset(lane, 0, sizeof *lane);
    lane->hasher = hasher;
    lane->slab = slab;
    lane->slot_size = expected >= (int64_t)FC_LARGE_FROM ? FC_SLOT_LARGE : FC_SLOT_SMALL;
}

void fc_lane_thread(fc_lane *lane, int64_t expected)
{
    if (lane->threaded || !lane->hasher.may_thread || !has_spare_processor())
        return;
    if (start(&lane->ring, lane->hasher)) {
        lane->hasher.may_thread = 0; /* no thread to be had: go on alone */
        return;
    }
    lane->threaded = 1;
    if (expected < 0)
        lane->slot_size = FC_SLOT_LARGE;
}

unsigned char *fc_lane_slot(const fc_lane *lane)
{
    return lane->slab + lane->ring.head % FC_SLOTS * lane->slot_size;
}

int fc_lane_acquire(fc_lane *lane)
{
    return lane->threaded ? wait_for_place(&lane->ring) : 0;
}

int fc_lane_hash(fc_lane *lane, const void *data, size_t size)
{
    fc_ring *ring = &lane->ring;

    if (!lane->threaded)
        return lane->hasher.update(lane->hasher.state, data, size);
    if (ring->owner != getpid())
        return FC_EFORKED;
    pthread_mutex_lock(&ring->mutex);
    ring->piece[ring->head % FC_SLOTS].data = data;
    ring->piece[ring->head % FC_SLOTS].size = size;
    __atomic_store_n(&ring->head, ring->head + 1, __ATOMIC_RELEASE);
    pthread_cond_signal(&ring->queued);
    pthread_mutex_unlock(&ring->mutex);
    return 0;
}

int fc_lane_final(fc_lane *lane, unsigned char *digest)
{
    const fc_ring *ring = &lane->ring;

    if (lane->threaded && ring->owner != getpid())
        return FC_EFORKED;
    fc_lane_close(lane);
    if (ring->status)
        return ring->status;
    if (ring->tail != ring->head) /* somebody ended the thread, as an interpreter does that ends itself */
        return FC_EDIGEST;
    return lane->hasher.final(lane->hasher.state, digest);
}

void fc_lane_close(fc_lane *lane)
{
    if (!lane->threaded)
        return;
    lane->threaded = 0;
    if (lane->ring.owner == getpid()) /* in a forked child the mutex may be locked for ever: don't touch it */
        end(&lane->ring);
}
