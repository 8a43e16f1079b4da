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

static int is_right(const fc_fetch *fetch, const fc_wanted *item)
{
    unsigned char actual[FC_DIGEST_MAX];
    char digits[2 * FC_DIGEST_MAX + 1];
    const fc_hasher *hasher = &fetch->hasher;

    if (fetch->algorithm->reset(hasher->state) || hasher->update(hasher->state, item->data, item->size) ||
        hasher->final(hasher->state, actual))
        return 0;
    fc_write_hex(digits, actual, hasher->digest_size);
    return !strcmp(digits, item->name);
}

int fc_fetch_read(fc_fetch *fetch)
{
    size_t end = fetch->next + FC_FETCH_CHUNK;

    for (; fetch->next < end && fetch->next < fetch->count; fetch->next++) {
        fc_wanted *item = &fetch->items[fetch->next];
        int64_t size = -1;
        int fd = fc_open_regular(fetch->directory, item->name, &size);

        if (fd < 0)
            continue;
        if (size >= 0 && (uint64_t)size == item->size && read_exactly(fd, item->data, item->size))
            item->done = is_right(fetch, item);
        close(fd);
    }
    return fetch->next < fetch->count;
}
