#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring.h"
#include "sys.h"

enum { COPY_STEP = 2 << 10, HUGE_FROM = 8 << 20 };

void fc_reader_init(fc_reader *reader, fc_hasher hasher, unsigned char *slab, int fd, uint64_t size,
                    const unsigned char *expected)
{
    memset(reader, 0, sizeof *reader);
    fc_lane_init(&reader->lane, hasher, slab, size > INT64_MAX ? INT64_MAX : (int64_t)size);
    reader->fd = fd;
    reader->size = size;
    memcpy(reader->expected, expected, (size_t)hasher.digest_size);
}

/* Before each piece of a large blob. */
static void prepare(fc_reader *reader)
{
    if (reader->size < FC_READER_THREAD_FROM)
        return;
    if (!reader->offset)
        posix_fadvise(reader->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    fc_lane_thread(&reader->lane, (int64_t)reader->size);
}

/* Exactly `size` bytes at the reader's offset, read into `out` and hashed there. */
static int take(fc_reader *reader, unsigned char *out, size_t size)
{
    size_t got = 0;
    int status;

    while (got < size) {
        ssize_t n = pread(reader->fd, out + got, size - got, (off_t)(reader->offset + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            reader->offset += got;
            return n ? -errno : FC_ESHORT;
        }
        got += (size_t)n;
    }
    status = fc_lane_hash(&reader->lane, out, got);
    reader->offset += got;
    return status;
}

/* At the end of the data: nothing behind it, and the digest is the expected one. */
static int check(fc_reader *reader)
{
    unsigned char beyond;
    ssize_t n;
    int status;

    if (reader->verified)
        return 0;
    do
        n = pread(reader->fd, &beyond, 1, (off_t)reader->size);
    while (n < 0 && errno == EINTR);
    if (n)
        return n < 0 ? -errno : FC_ELONG;
    status = fc_lane_final(&reader->lane, reader->actual);
    fc_lane_close(&reader->lane);
    if (status)
        return status;
    if (memcmp(reader->actual, reader->expected, (size_t)reader->lane.hasher.digest_size))
        return FC_EMISMATCH;
    reader->verified = 1;
    return 0;
}

static int fill(fc_reader *reader)
{
    uint64_t left = reader->size - reader->offset;
    size_t size;
    int status;

    prepare(reader);
    size = left < reader->lane.slot_size ? (size_t)left : reader->lane.slot_size;
    status = fc_lane_acquire(&reader->lane);
    reader->slot = fc_lane_slot(&reader->lane);
    if (!status)
        status = take(reader, reader->slot, size);
    if (!status && reader->offset == reader->size)
        status = check(reader);
    if (status)
        return status;
    reader->fill = size;
    reader->taken = 0;
    return 0;
}

/* In small steps: for large ones memcpy takes the processor's own copy instruction, which on some (Zen 3) runs at a tenth
   of its rate when the target's place within a page is a few bytes behind the source's. */
static void hand_out(unsigned char *out, const unsigned char *data, size_t size)
{
    for (size_t n; size; out += n, data += n, size -= n) {
        n = size < COPY_STEP ? size : COPY_STEP;
        memcpy(out, data, n);
    }
}

/* Large pages for memory that is touched for the first time: else its page faults cost as much as reading into it. */
static void expect_all(unsigned char *out, uint64_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)out + page - 1) & ~(page - 1), to = ((uintptr_t)out + size) & ~(page - 1);

    madvise((void *)from, to - from, MADV_HUGEPAGE);
}

static int hand_out_next(fc_reader *reader, unsigned char *out, size_t size, size_t *done)
{
    uint64_t deadline = fc_deadline();

    while (*done < size) {
        if (reader->taken == reader->fill) {
            if (reader->offset == reader->size)
                return check(reader);
            int status = fill(reader);
            if (status)
                return status;
        }
        size_t n = reader->fill - reader->taken;
        if (n > size - *done)
            n = size - *done;
        hand_out(out + *done, reader->slot + reader->taken, n);
        reader->taken += n;
        *done += n;
        if (*done < size && fc_past(deadline))
            return 1;
    }
    return 0;
}

int fc_reader_read(fc_reader *reader, unsigned char *out, size_t size, size_t *done)
{
    fc_work(1);
    int status = hand_out_next(reader, out, size, done);
    fc_work(-1);
    return status;
}

static int read_all(fc_reader *reader, unsigned char *out)
{
    uint64_t deadline = fc_deadline();

    if (!reader->offset && reader->size >= HUGE_FROM)
        expect_all(out, reader->size);
    while (reader->offset < reader->size) {
        uint64_t left = reader->size - reader->offset;
        prepare(reader);
        int status = fc_lane_acquire(&reader->lane);
        if (!status)
            status = take(reader, out + reader->offset, left < FC_SLOT_LARGE ? (size_t)left : FC_SLOT_LARGE);
        if (status)
            return status;
        if (fc_past(deadline))
            return 1;
    }
    return check(reader);
}

int fc_reader_read_all(fc_reader *reader, unsigned char *out)
{
    fc_work(1);
    int status = read_all(reader, out);
    fc_work(-1);
    return status;
}

static int drain(fc_reader *reader)
{
    uint64_t deadline = fc_deadline();

    reader->taken = reader->fill = 0;
    while (reader->offset < reader->size) {
        int status = fill(reader);
        if (status)
            return status;
        reader->taken = reader->fill;
        if (fc_past(deadline))
            return 1;
    }
    return check(reader);
}

int fc_reader_drain(fc_reader *reader)
{
    fc_work(1);
    int status = drain(reader);
    fc_work(-1);
    return status;
}

void fc_reader_close(fc_reader *reader)
{
    fc_lane_close(&reader->lane);
}

