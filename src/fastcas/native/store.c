#define _GNU_SOURCE
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "sys.h"

enum {
    SKEW = 17 * 64, /* streams at the same offsets within a page would share the few places of the cache for those */
    STRIDE = FC_STORE_SLOT + SKEW,
    FEW = FC_STORE_THREADS * FC_LANES_MAX,
};

_Static_assert(FC_LANES_MAX * STRIDE <= FC_SLAB, "the lanes' slots fit into a slab");

/* ---- one blob ---- */

/* What is no regular file, or can't be opened, is left to the general way, which takes it or says what is wrong. */
static int open_source(fc_stream *from)
{
    fc_item *item = from->item;
    int64_t size;

    if (item->data)
        return 0;
    from->source = fc_open_source(item->path, &size);
    if (from->source < 0)
        return 1;
    item->size = (uint64_t)size;
    return 0;
}

/* The next bytes: `*data` is in the item's memory, or `slot`. Returns how many, or a negative errno. */
static ssize_t next_piece(fc_stream *from, unsigned char *slot, size_t room, const unsigned char **data, int *last)
{
    fc_item *item = from->item;
    uint64_t left = item->size - from->offset; /* of a file that grows, it may be anything */
    ssize_t n;

    if (item->data) {
        *data = item->data + from->offset;
        *last = left <= room;
        return (ssize_t)(*last ? left : room);
    }
    do
        n = read(from->source, slot, room);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        item->reading = 1;
        return -errno;
    }
    *data = slot;
    *last = !n || ((size_t)n < room && (uint64_t)n == left); /* less than was asked for, where it should end */
    return n;
}

static int write_piece(const fc_store *store, fc_stream *from, const unsigned char *data, size_t size)
{
    if (from->out.fd < 0) {
        int status = fc_small_temp(store->to, &from->out.fd);
        if (status)
            return status;
    }
    return fc_out_write(&from->out, data, size);
}

/* Only of a blob that doesn't fit into its slot a checksum is taken. */
static int sum_piece(const fc_store *store, fc_stream *from, const unsigned char *data, size_t size)
{
    int status = 0;

    if (!store->checksum)
        return 0;
    if (!from->offset)
        status = store->checksum->reset(from->checksum);
    return status ? status : store->checksum->update(from->checksum, data, size);
}

/* A piece that is the whole is held back: its name may exist already. */
static int take_piece(fc_store *store, fc_stream *from, const unsigned char *data, size_t size, int last)
{
    int status = 0;

    if (last && !from->offset) {
        from->held = data;
    } else if (size) {
        status = sum_piece(store, from, data, size);
        if (!status)
            status = write_piece(store, from, data, size);
    }
    from->offset += size;
    __atomic_fetch_add(&store->taken, size, __ATOMIC_RELAXED);
    return status;
}

static void give_name(fc_item *item, int place)
{
    if (!item->status)
        item->status = fc_small_link(item->fd, place, item->name);
    close(item->fd);
    item->fd = -1;
}

/* A garbage collection counts its grace from here, not from the last byte: a sync may take long, and so may what else is
   in the group. */
void fc_store_publish(fc_item *item, int place)
{
    if (item->fd < 0)
        return;
    if (!item->status && futimens(item->fd, NULL))
        item->status = -errno;
    give_name(item, place);
}

/* The file is as long as what was hashed, whatever its writes said. */
static int check_size(const fc_stream *from)
{
    struct stat facts;

    if (fstat(from->out.fd, &facts))
        return -errno;
    return (uint64_t)facts.st_size == from->offset ? 0 : -EIO;
}

/* Everything came. Only before a sync it pays to look for the name first: the look takes the directory's lock, for which two
   threads wait longer than for all the rest, and the link says whether the name was there. */
static int complete(const fc_store *store, fc_stream *from, const unsigned char *digest, int digest_size)
{
    fc_item *item = from->item;
    int status;

    fc_write_hex(item->name, digest, digest_size);
    item->size = from->offset;
    if (store->to->sync && fc_small_exists(store->place, item->name))
        status = 1;
    else
        status = from->held ? write_piece(store, from, from->held, (size_t)item->size) : 0;
    if (!status)
        status = check_size(from);
    if (!status && !from->held && store->checksum)
        status = store->checksum->final(from->checksum, item->checksum);
    if (status)
        return status;
    item->summed = !from->held && store->checksum;
    item->fd = from->out.fd;
    from->out.fd = -1;
    item->status = 0;
    if (!store->to->sync)
        give_name(item, store->place);
    return item->status;
}

static void release(fc_stream *from)
{
    if (from->source >= 0)
        close(from->source);
    if (from->out.fd >= 0)
        close(from->out.fd);
    from->item = NULL;
}

static void end(fc_store *store, fc_seat *seat, int lane, int status)
{
    fc_stream *from = &seat->stream[lane];
    size_t number = (size_t)(from->item - store->items);

    from->item->status = status;
    if (status)
        __atomic_fetch_sub(&store->taken, from->offset, __ATOMIC_RELAXED);
    release(from);
    fc_lanes_drop(&seat->lanes, lane);
    pthread_mutex_lock(&store->mutex);
    seat->active--;
    if (status < 0 && number < store->failed)
        store->failed = number;
    pthread_mutex_unlock(&store->mutex);
}

/* ---- one thread ---- */

static fc_seat *other_of(fc_store *store, const fc_seat *seat)
{
    return &store->seat[seat == &store->seat[0]];
}

/* The second thread couldn't be had. */
static int is_single(const fc_store *store, const fc_seat *seat)
{
    return seat == &store->seat[0] && !store->pool.helpers;
}

/* The next item. When few are left, only for a seat that has no more to do than the other: else all of them could be taken by
   the one who comes first. */
static fc_item *take_item(fc_store *store, fc_seat *seat)
{
    fc_item *item = NULL;

    pthread_mutex_lock(&store->mutex);
    while (store->next < store->count && store->next > store->failed)
        store->items[store->next++].status = FC_EUNBEGUN;
    if (store->next < store->count && (store->count - store->next > FEW || is_single(store, seat) ||
                                       seat->active <= other_of(store, seat)->active)) {
        item = &store->items[store->next++];
        seat->active++;
    }
    pthread_mutex_unlock(&store->mutex);
    return item;
}

static void begin(fc_store *store, fc_seat *seat, int lane, fc_item *item)
{
    fc_stream *from = &seat->stream[lane];
    int status;

    memset(from, 0, sizeof *from);
    from->item = item;
    from->source = from->out.fd = -1;
    from->checksum = seat->checksum[lane];
    from->out.writeback = store->to->sync;
    status = open_source(from);
    if (!status)
        status = fc_lanes_start(&seat->lanes, lane);
    if (status)
        end(store, seat, lane, status);
}

/* Ends what is hashed, and begins what is next. */
static void turn_over(fc_store *store, fc_seat *seat, int lane)
{
    unsigned char digest[FC_DIGEST_MAX];
    fc_item *item;

    if (seat->lanes.stream[lane].phase == FC_LANE_DONE) {
        fc_lanes_take(&seat->lanes, lane, digest);
        end(store, seat, lane, complete(store, &seat->stream[lane], digest, seat->lanes.digest_size));
    }
    while (seat->lanes.stream[lane].phase == FC_LANE_IDLE && (item = take_item(store, seat)))
        begin(store, seat, lane, item);
}

static void supply(fc_store *store, fc_seat *seat, int lane)
{
    fc_stream *from = &seat->stream[lane];
    const unsigned char *data;
    int status, last;
    ssize_t n = next_piece(from, seat->slab + (size_t)lane * STRIDE, FC_STORE_SLOT, &data, &last);

    status = n < 0 ? (int)n : take_piece(store, from, data, (size_t)n, last);
    if (status) {
        end(store, seat, lane, status);
        return;
    }
    if (n)
        fc_lanes_feed(&seat->lanes, lane, data, (size_t)n);
    if (last)
        fc_lanes_end(&seat->lanes, lane);
}

/* ---- the last large blob: its lane becomes the hasher of a ring, whose thread takes the place of the other seat ---- */

static int update_last(void *state, const void *data, size_t size)
{
    fc_seat *seat = state;

    fc_lanes_feed(&seat->lanes, seat->last, data, size);
    return fc_lanes_run(&seat->lanes);
}

static int finish_last(void *state, unsigned char *digest)
{
    fc_seat *seat = state;
    int status;

    fc_lanes_end(&seat->lanes, seat->last);
    status = fc_lanes_run(&seat->lanes);
    if (!status)
        fc_lanes_take(&seat->lanes, seat->last, digest);
    return status;
}

static int is_last(fc_store *store, fc_seat *seat, int lane)
{
    const fc_stream *from = &seat->stream[lane];
    int alone;

    if (seat->active != 1 || seat->lanes.stream[lane].phase != FC_LANE_HUNGRY)
        return 0;
    pthread_mutex_lock(&store->mutex);
    alone = store->closed && store->next == store->count && !other_of(store, seat)->active;
    pthread_mutex_unlock(&store->mutex);
    return alone && from->item->size >= from->offset + FC_SINK_THREAD_FROM;
}

static void split(fc_seat *seat, int lane)
{
    const fc_stream *from = &seat->stream[lane];
    const fc_hasher hasher = {update_last, finish_last, seat, seat->lanes.digest_size, 1};
    int64_t left = (int64_t)(from->item->size - from->offset);

    seat->split = 1;
    seat->last = lane;
    fc_lane_init(&seat->ring, hasher, seat->slab, left);
    fc_lane_thread(&seat->ring, left);
}

static void step_split(fc_store *store, fc_seat *seat)
{
    fc_stream *from = &seat->stream[seat->last];
    unsigned char digest[FC_DIGEST_MAX];
    const unsigned char *data;
    int last = 0, status = fc_lane_acquire(&seat->ring);
    ssize_t n = 0;

    if (!status) {
        n = next_piece(from, fc_lane_slot(&seat->ring), seat->ring.slot_size, &data, &last);
        status = n < 0 ? (int)n : 0;
    }
    if (!status && n)
        status = fc_lane_hash(&seat->ring, data, (size_t)n);
    if (!status)
        status = take_piece(store, from, data, (size_t)n, last);
    if (!status && !last)
        return;
    if (!status)
        status = fc_lane_final(&seat->ring, digest);
    fc_lane_close(&seat->ring);
    seat->split = 0;
    if (!status)
        status = complete(store, from, digest, seat->lanes.digest_size);
    end(store, seat, seat->last, status);
}

/* ---- all of it ---- */

/* 0: there is nothing, and nothing will come. */
static int wait_for_items(fc_store *store)
{
    struct timespec until;
    int more;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec++; /* a pool that is stopped sees it then at the latest */
    pthread_mutex_lock(&store->mutex);
    if (store->next == store->count && !store->closed)
        pthread_cond_timedwait(&store->added, &store->mutex, &until);
    more = store->next < store->count || !store->closed;
    pthread_mutex_unlock(&store->mutex);
    return more;
}

static int step(void *context, int number)
{
    fc_store *store = context;
    fc_seat *seat = &store->seat[number];
    int status;

    if (seat->split) {
        step_split(store, seat);
        return 1;
    }
    for (int lane = 0; lane < seat->lanes.lanes; lane++)
        turn_over(store, seat, lane);
    if (!seat->active)
        return wait_for_items(store);
    for (int lane = 0; lane < seat->lanes.lanes; lane++) {
        if (is_last(store, seat, lane)) {
            split(seat, lane);
            return 1;
        }
        if (seat->lanes.stream[lane].phase == FC_LANE_HUNGRY)
            supply(store, seat, lane);
    }
    status = fc_lanes_run(&seat->lanes);
    for (int lane = 0; status && lane < seat->lanes.lanes; lane++)
        if (seat->stream[lane].item)
            end(store, seat, lane, status);
    return 1;
}

int fc_store_open(fc_store *store)
{
    pthread_mutex_init(&store->mutex, NULL);
    pthread_cond_init(&store->added, NULL);
    store->failed = SIZE_MAX;
    for (int i = 0; i < FC_STORE_THREADS; i++) {
        fc_seat *seat = &store->seat[i];
        int status = fc_lanes_open(&seat->lanes, store->kernel, store->algorithm);
        if (status)
            return status;
        for (int lane = 0; store->checksum && lane < seat->lanes.lanes; lane++)
            if (!(seat->checksum[lane] = store->checksum->begin(store->checksum)))
                return FC_EDIGEST;
    }
    return 0;
}

void fc_store_add(fc_store *store)
{
    pthread_mutex_lock(&store->mutex);
    store->count++;
    pthread_cond_signal(&store->added);
    pthread_mutex_unlock(&store->mutex);
}

void fc_store_start(fc_store *store)
{
    if (!store->pool.owner)
        fc_pool_start(&store->pool, step, store, FC_STORE_THREADS);
}

int fc_store_run(fc_store *store)
{
    if (store->pool.owner && store->pool.owner != getpid())
        return FC_EFORKED; /* the mutex may be locked for ever in this process */
    pthread_mutex_lock(&store->mutex);
    store->closed = 1;
    pthread_cond_broadcast(&store->added);
    pthread_mutex_unlock(&store->mutex);
    fc_store_start(store);
    return fc_pool_run(&store->pool);
}

void fc_store_close(fc_store *store)
{
    if (store->pool.owner && store->pool.owner != getpid())
        return; /* the thread is the parent's, and so are the numbers of its files */
    pthread_mutex_lock(&store->mutex);
    store->closed = 1;
    store->next = store->count;
    pthread_cond_broadcast(&store->added);
    pthread_mutex_unlock(&store->mutex);
    fc_pool_stop(&store->pool);
    for (int i = 0; i < FC_STORE_THREADS; i++) {
        fc_seat *seat = &store->seat[i];
        if (seat->split)
            fc_lane_close(&seat->ring);
        for (int lane = 0; lane < FC_LANES_MAX; lane++)
            if (seat->stream[lane].item)
                release(&seat->stream[lane]);
        for (int lane = 0; store->checksum && lane < FC_LANES_MAX; lane++)
            store->checksum->end(seat->checksum[lane]);
        fc_lanes_close(&seat->lanes);
    }
    pthread_cond_destroy(&store->added);
    pthread_mutex_destroy(&store->mutex);
}
