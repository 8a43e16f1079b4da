#define _GNU_SOURCE
#include "many.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"
#include "sys.h"

enum {
    STACK_SIZE = 512 << 10,
    SKEW = 17 * 64, /* streams at the same offsets within a page would share the few places of the cache for those */
    MEMORY_PIECE = 1 << 20,
    FORGET_STEP = 8 << 20,
    MOST_OPEN = 256, /* files: the rest of the process needs descriptors too */
};

/* The item of one lane. */
typedef struct {
    fc_many_item *item;
    int fd;
    uint64_t offset;    /* bytes that were fed */
    uint64_t forgotten; /* bytes that were given back to the page cache */
    int cold;           /* the first bytes weren't in the page cache */
} source;

struct fc_many_worker {
    fc_many *many;
    pthread_t thread;
    fc_lanes lanes;
    source source[FC_LANES_MAX];
    void *checksum[FC_LANES_MAX]; /* states of many->checksum */
    unsigned char *slots;
};

static int is_stopped(const fc_many *many)
{
    return __atomic_load_n(&many->stop, __ATOMIC_ACQUIRE);
}

/* ---- one item ---- */

static int open_item(source *from)
{
    fc_many_item *item = from->item;
    struct stat facts;
    int64_t size;

    switch (item->kind) {
    case FC_MEMORY:
        return 0;
    case FC_NAME:
        from->fd = fc_open_regular(item->fd, item->name, &size);
        if (from->fd < 0)
            return from->fd;
        if (size < 0)
            return FC_EKIND;
        break;
    case FC_FILE:
        if (fstat(item->fd, &facts))
            return -errno;
        if (!S_ISREG(facts.st_mode))
            return FC_EKIND;
        from->fd = item->fd;
        size = facts.st_size;
        break;
    }
    item->size = (uint64_t)size;
    if (size > FC_MANY_SLOT)
        posix_fadvise(from->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return 0;
}

/* The first read says whether the page cache had it. */
static ssize_t read_first(source *from, void *slot, size_t size)
{
    const struct iovec whole = {slot, size};
    ssize_t n = preadv2(from->fd, &whole, 1, 0, RWF_NOWAIT);

    if (n >= 0 || (errno != EAGAIN && errno != EOPNOTSUPP && errno != ENOSYS))
        return n;
    from->cold = errno == EAGAIN;
    return pread(from->fd, slot, size, 0);
}

/* `size` 0: to the end of the file. */
static void forget(source *from, uint64_t size)
{
    posix_fadvise(from->fd, (off_t)from->forgotten, (off_t)size, POSIX_FADV_DONTNEED);
    from->forgotten += size;
}

/* Feeds what comes next, and ends the lane where nothing comes any more. A file has the size that was found when it was
   begun: one byte more is asked for, so that a small one takes one call. */
static int supply_file(fc_many_worker *worker, int lane)
{
    const fc_algorithm *checksum = worker->many->checksum;
    source *from = &worker->source[lane];
    uint64_t left = from->item->size - from->offset;
    size_t most = worker->many->slot, wanted = left < most ? (size_t)left + 1 : most;
    unsigned char *slot = worker->slots + (size_t)lane * (most + SKEW);
    ssize_t n;
    int status = 0;

    if (from->cold && from->offset - from->forgotten >= FORGET_STEP)
        forget(from, FORGET_STEP);
    do
        n = from->offset ? pread(from->fd, slot, wanted, (off_t)from->offset) : read_first(from, slot, wanted);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if ((uint64_t)n > left)
        return FC_ELONG;
    if (!n && left)
        return FC_ESHORT;
    if (checksum)
        status = checksum->update(worker->checksum[lane], slot, (size_t)n);
    if (n)
        fc_lanes_feed(&worker->lanes, lane, slot, (size_t)n);
    from->offset += (uint64_t)n;
    if (from->offset == from->item->size && (size_t)n < wanted)
        fc_lanes_end(&worker->lanes, lane);
    __atomic_fetch_add(&worker->many->hashed, (uint64_t)n, __ATOMIC_RELAXED);
    return status;
}

static int supply_memory(fc_many_worker *worker, int lane)
{
    source *from = &worker->source[lane];
    uint64_t left = from->item->size - from->offset;
    size_t size = left < MEMORY_PIECE ? (size_t)left : MEMORY_PIECE;

    if (size)
        fc_lanes_feed(&worker->lanes, lane, from->item->data + from->offset, size);
    if (size == left)
        fc_lanes_end(&worker->lanes, lane);
    from->offset += size;
    __atomic_fetch_add(&worker->many->hashed, size, __ATOMIC_RELAXED);
    return 0;
}

static void release(source *from)
{
    if (!from->item)
        return;
    if (from->cold)
        forget(from, 0);
    if (from->item->kind == FC_NAME && from->fd >= 0)
        close(from->fd);
    from->item->found = from->offset;
    from->item = NULL;
}

static void fail(fc_many_worker *worker, int lane, int status)
{
    fc_many *many = worker->many;
    fc_many_item *item = worker->source[lane].item;
    size_t none = many->count;

    release(&worker->source[lane]);
    fc_lanes_drop(&worker->lanes, lane);
    item->status = status;
    if (!many->stop_at_failure)
        return;
    __atomic_compare_exchange_n(&many->failed, &none, (size_t)(item - many->items), 0, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
    __atomic_store_n(&many->stop, 1, __ATOMIC_RELEASE);
}

static void succeed(fc_many_worker *worker, int lane)
{
    const fc_algorithm *checksum = worker->many->checksum;
    fc_many_item *item = worker->source[lane].item;

    fc_lanes_take(&worker->lanes, lane, item->digest);
    release(&worker->source[lane]);
    item->status = checksum ? checksum->final(worker->checksum[lane], item->checksum) : 0;
}

/* ---- one thread ---- */

/* 0: there is no item left. */
static int begin(fc_many_worker *worker, int lane)
{
    fc_many *many = worker->many;
    source *from = &worker->source[lane];
    size_t number;
    int status;

    if (is_stopped(many) || __atomic_load_n(&many->next, __ATOMIC_RELAXED) >= many->count)
        return 0;
    number = __atomic_fetch_add(&many->next, 1, __ATOMIC_RELAXED);
    if (number >= many->count)
        return 0;
    memset(from, 0, sizeof *from);
    from->item = &many->items[number];
    from->fd = -1;
    status = open_item(from);
    if (!status)
        status = fc_lanes_start(&worker->lanes, lane);
    if (!status && many->checksum)
        status = many->checksum->reset(worker->checksum[lane]);
    if (status)
        fail(worker, lane, status);
    return 1;
}

/* Until the lane has something to hash. 0: it stays empty. */
static int prepare(fc_many_worker *worker, int lane)
{
    for (;;) {
        int status;
        switch (worker->lanes.stream[lane].phase) {
        case FC_LANE_IDLE:
            if (!begin(worker, lane))
                return 0;
            break;
        case FC_LANE_HUNGRY:
            status = worker->source[lane].item->kind == FC_MEMORY ? supply_memory(worker, lane)
                                                                  : supply_file(worker, lane);
            if (status)
                fail(worker, lane, status);
            break;
        case FC_LANE_DONE:
            succeed(worker, lane);
            break;
        case FC_LANE_FED:
            return 1;
        }
    }
}

/* 0: nothing is left to do. */
static int step(fc_many_worker *worker)
{
    int fed = 0, status;

    if (is_stopped(worker->many))
        return 0;
    for (int lane = 0; lane < worker->lanes.lanes; lane++)
        fed |= prepare(worker, lane);
    if (!fed)
        return 0;
    status = fc_lanes_run(&worker->lanes);
    if (status) /* libcrypto's, which has one lane */
        fail(worker, 0, status);
    return 1;
}

static void *work(void *argument)
{
    fc_many_worker *worker = argument;
    fc_many *many = worker->many;

    while (step(worker))
        ;
    pthread_mutex_lock(&many->mutex);
    many->working--;
    pthread_cond_signal(&many->finished);
    pthread_mutex_unlock(&many->mutex);
    return NULL;
}

/* ---- all of them ---- */

static int prepare_worker(fc_many *many, int number, int width)
{
    fc_many_worker *worker = &many->workers[number];
    int status = fc_lanes_open(&worker->lanes, many->kernel, many->algorithm);

    worker->many = many;
    worker->slots = (unsigned char *)many->memory + (size_t)number * (size_t)width * (many->slot + SKEW);
    if (worker->lanes.lanes > width)
        worker->lanes.lanes = width;
    for (int lane = 0; many->checksum && lane < worker->lanes.lanes && !status; lane++)
        if (!(worker->checksum[lane] = many->checksum->begin(many->checksum)))
            status = -ENOMEM;
    return status;
}

static void close_worker(fc_many_worker *worker)
{
    for (int lane = 0; lane < FC_LANES_MAX; lane++) {
        release(&worker->source[lane]);
        if (worker->checksum[lane])
            worker->many->checksum->end(worker->checksum[lane]);
        worker->checksum[lane] = NULL;
    }
    fc_lanes_close(&worker->lanes);
}

int fc_many_open(fc_many *many)
{
    pthread_condattr_t monotonic;
    int threads = many->threads < FC_MANY_THREADS ? many->threads : FC_MANY_THREADS;
    int width = many->kernel ? many->kernel->lanes : 1, status;
    size_t share;

    many->hashed = many->next = 0;
    many->failed = many->count;
    many->stop = many->working = many->started = 0;
    many->memory = NULL;
    many->owner = getpid();
    for (size_t i = 0; i < many->count; i++)
        many->items[i].status = FC_ESKIPPED;
    if ((size_t)threads > many->count)
        threads = many->count ? (int)many->count : 1;
    /* A few items are shared out evenly: a thread that filled all its lanes would leave the others nothing. */
    share = (many->count + (size_t)threads - 1) / (size_t)threads;
    if (share < (size_t)width)
        width = share ? (int)share : 1;
    if (width > MOST_OPEN / threads)
        width = MOST_OPEN / threads;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&many->mutex, NULL);
    pthread_cond_init(&many->finished, &monotonic);
    pthread_condattr_destroy(&monotonic);
    many->workers = calloc((size_t)threads, sizeof *many->workers);
    if (!many->workers)
        return -ENOMEM;
    many->slot = many->kernel ? FC_MANY_SLOT : FC_MANY_SLOT_ALONE;
    many->memory_size = (size_t)threads * (size_t)width * (many->slot + SKEW);
    many->memory = mmap(NULL, many->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (many->memory == MAP_FAILED) {
        many->memory = NULL;
        return -ENOMEM;
    }
    status = prepare_worker(many, 0, width);
    for (int i = 1; i < threads && !status; i++) {
        fc_many_worker *worker = &many->workers[i];
        if (prepare_worker(many, i, width)) {
            close_worker(worker);
            break;
        }
        pthread_mutex_lock(&many->mutex);
        many->working++;
        pthread_mutex_unlock(&many->mutex);
        if (fc_thread(&worker->thread, STACK_SIZE, 1, work, worker)) {
            pthread_mutex_lock(&many->mutex);
            many->working--;
            pthread_mutex_unlock(&many->mutex);
            close_worker(worker);
            break;
        }
        many->started++;
    }
    return status;
}

int fc_many_run(fc_many *many)
{
    uint64_t deadline = fc_deadline();
    const struct timespec until = {.tv_sec = (time_t)(deadline / 1000000000u), .tv_nsec = (long)(deadline % 1000000000u)};
    int working, late = 0;

    if (many->owner != getpid())
        return FC_EFORKED;
    while (step(&many->workers[0]))
        if (fc_past(deadline))
            return 1;
    pthread_mutex_lock(&many->mutex);
    while (many->working && !late)
        late = pthread_cond_timedwait(&many->finished, &many->mutex, &until);
    working = many->working;
    pthread_mutex_unlock(&many->mutex);
    return working > 0;
}

void fc_many_close(fc_many *many)
{
    int threads = many->started;

    if (many->owner != getpid())
        threads = 0; /* they are the parent's, and so are the numbers of their files */
    __atomic_store_n(&many->stop, 1, __ATOMIC_RELEASE);
    for (int i = 1; i <= threads; i++)
        pthread_join(many->workers[i].thread, NULL);
    for (int i = 0; many->workers && i <= threads; i++)
        close_worker(&many->workers[i]);
    if (many->memory)
        munmap(many->memory, many->memory_size);
    free(many->workers);
    many->workers = NULL;
    many->memory = NULL;
    if (many->owner == getpid()) {
        pthread_mutex_destroy(&many->mutex);
        pthread_cond_destroy(&many->finished);
    }
}
