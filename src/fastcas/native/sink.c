#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ring.h"

enum { DIRECT_PIECE = 512 << 10 };

void fc_sink_init(fc_sink *sink, fc_hasher hasher, unsigned char *slab, int fd, int writeback, uint64_t limit,
                  int64_t expected)
{
    memset(sink, 0, sizeof *sink);
    fc_lane_init(&sink->lane, hasher, slab, expected);
    sink->out.fd = fd;
    sink->out.writeback = writeback;
    sink->owner = getpid();
    sink->limit = limit;
    if (expected >= (int64_t)FC_SINK_THREAD_FROM)
        fc_lane_thread(&sink->lane, expected);
}

static int take(fc_sink *sink, size_t size)
{
    sink->size += size;
    return sink->size > sink->limit ? FC_ELIMIT : 0;
}

static int store(fc_sink *sink, const unsigned char *data, size_t size)
{
    int status = 0;

    if (sink->owner != getpid())
        return FC_EFORKED;
    if (sink->checksum.update)
        status = sink->checksum.update(sink->checksum.state, data, size);
    if (!status && sink->out.fd >= 0) {
        status = fc_out_write(&sink->out, data, size);
        sink->storing = status < 0;
    }
    return status;
}

/* The slot's bytes to the hasher and to the file. */
static int flush(fc_sink *sink)
{
    unsigned char *slot;
    int status;

    if (!sink->fill)
        return 0;
    slot = fc_lane_slot(&sink->lane);
    status = fc_lane_hash(&sink->lane, slot, sink->fill);
    if (!status)
        status = store(sink, slot, sink->fill);
    sink->fill = 0;
    if (sink->size >= FC_SINK_THREAD_FROM)
        fc_lane_thread(&sink->lane, -1);
    return status;
}

static int next_slot(fc_sink *sink, unsigned char **data, size_t *size)
{
    int status = sink->fill == sink->lane.slot_size ? flush(sink) : 0;

    if (!status && !sink->fill)
        status = fc_lane_acquire(&sink->lane);
    if (status)
        return status;
    *data = fc_lane_slot(&sink->lane) + sink->fill;
    *size = sink->lane.slot_size - sink->fill;
    return 0;
}

int fc_sink_slot(fc_sink *sink, unsigned char **data, size_t *size)
{
    fc_work(1);
    int status = next_slot(sink, data, size);
    fc_work(-1);
    return status;
}

int fc_sink_filled(fc_sink *sink, size_t size)
{
    sink->fill += size;
    return take(sink, size);
}

static int pull(fc_sink *sink, int source, uint64_t burst)
{
    uint64_t deadline = fc_deadline(), start = sink->size;
    unsigned char *data;
    size_t room;
    int status;

    do {
        status = next_slot(sink, &data, &room);
        if (status)
            return status;
        if (sink->polled) {
            fc_work(-1);
            status = fc_wait(source, POLLIN);
            fc_work(1);
            if (status <= 0)
                return status ? status : 1;
        }
        ssize_t n = read(source, data, room);
        if (n < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK)
                sink->polled = 1;
            else if (errno != EINTR)
                return -errno;
            return 1;
        }
        if (n == 0)
            return 0;
        status = fc_sink_filled(sink, (size_t)n);
        if (status)
            return status;
    } while (sink->size - start < burst && !fc_past(deadline));
    return 1;
}

int fc_sink_pull(fc_sink *sink, int source, uint64_t burst)
{
    fc_work(1);
    int status = pull(sink, source, burst);
    fc_work(-1);
    return status;
}

/* Memory that can't change is hashed and written where it lies, but for its last FC_SLAB bytes when the hasher runs
   beside us: those are copied into slots. The caller may take its memory back as soon as we return, and the hasher has
   something to do until the next piece: by the time that the last slot is free to be filled, FC_SLOTS pieces came after
   the last one that lies in the caller's memory, so that was hashed. */
static int push(fc_sink *sink, const unsigned char *data, size_t size, int stable, uint64_t burst, size_t *done)
{
    uint64_t deadline = fc_deadline(), start = sink->size;
    const fc_lane *lane = &sink->lane;
    unsigned char *slot;
    size_t n, room;
    int status = 0;

    while (!status && *done < size) {
        n = size - *done;
        if (!sink->fill && sink->size >= FC_SINK_THREAD_FROM)
            fc_lane_thread(&sink->lane, -1);
        if (stable && (lane->threaded ? n > FC_SLAB : n >= lane->slot_size)) {
            if (sink->fill) {
                status = flush(sink); /* which may start the hasher: look again */
                continue;
            }
            if (lane->threaded)
                n -= FC_SLAB;
            if (n > DIRECT_PIECE)
                n = DIRECT_PIECE;
            status = take(sink, n);
            if (!status)
                status = fc_lane_acquire(&sink->lane);
            if (!status)
                status = fc_lane_hash(&sink->lane, data + *done, n);
            if (!status)
                status = store(sink, data + *done, n);
        } else {
            status = next_slot(sink, &slot, &room);
            if (status)
                break;
            if (n > room)
                n = room;
            memcpy(slot, data + *done, n);
            status = fc_sink_filled(sink, n);
        }
        *done += n;
        if (!status && *done < size && (sink->size - start >= burst || fc_past(deadline)))
            return 1;
    }
    return status;
}

int fc_sink_push(fc_sink *sink, const unsigned char *data, size_t size, int stable, uint64_t burst, size_t *done)
{
    fc_work(1);
    int status = push(sink, data, size, stable, burst, done);
    fc_work(-1);
    return status;
}

int fc_sink_finish(fc_sink *sink, unsigned char *digest)
{
    struct stat facts;
    int status = sink->owner == getpid() ? flush(sink) : FC_EFORKED;

    if (!status)
        status = fc_lane_final(&sink->lane, digest);
    fc_lane_close(&sink->lane);
    if (status || sink->out.fd < 0)
        return status;
    if (fstat(sink->out.fd, &facts))
        return -errno;
    return (uint64_t)facts.st_size == sink->size ? 0 : -EIO;
}

void fc_sink_close(fc_sink *sink)
{
    fc_lane_close(&sink->lane);
}
