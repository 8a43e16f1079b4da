#define _GNU_SOURCE
#include "fetch.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "sys.h"

static int read_exactly(int fd, unsigned char *data, size_t size)
{
    size_t found = 0;
    ssize_t n;

    while (found < size) {
        n = pread(fd, data + found, size - found, (off_t)found);
        if (n > 0)
            found += (size_t)n;
        else if (!n || errno != EINTR)
            return 0;
    }
    return 1;
}

static int is_right(const fc_fetch *fetch, const fc_hasher *hasher, const fc_wanted *item)
{
    unsigned char actual[FC_DIGEST_MAX];
    char digits[2 * FC_DIGEST_MAX + 1];

    if (fetch->algorithm->reset(hasher->state) || hasher->update(hasher->state, item->data, item->size) ||
        hasher->final(hasher->state, actual))
        return 0;
    fc_write_hex(digits, actual, hasher->digest_size);
    return !strcmp(digits, item->name);
}

static void read_one(const fc_fetch *fetch, const fc_hasher *hasher, fc_wanted *item)
{
    int64_t size = -1;
    int fd = fc_open_regular(fetch->directory, item->name, &size);

    if (fd < 0)
        return;
    if (size >= 0 && (uint64_t)size == item->size && read_exactly(fd, item->data, item->size))
        item->done = is_right(fetch, hasher, item);
    close(fd);
}

int fc_fetch_read(void *context, int seat)
{
    fc_fetch *fetch = context;
    size_t i = __atomic_fetch_add(&fetch->next, FC_FETCH_CHUNK, __ATOMIC_RELAXED);
    size_t end = i + FC_FETCH_CHUNK < fetch->count ? i + FC_FETCH_CHUNK : fetch->count;

    for (; i < end; i++)
        read_one(fetch, &fetch->hashers[seat], &fetch->items[i]);
    return i < fetch->count;
}
