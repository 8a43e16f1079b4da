#define _GNU_SOURCE
#include "fetch.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "evp.h"
#include "sys.h"

size_t fc_fetch_chunks(const fc_fetch *fetch)
{
    return (fetch->count + FC_FETCH_CHUNK - 1) / FC_FETCH_CHUNK;
}

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

static int is_right(const fc_wanted *item, fc_hasher hasher)
{
    unsigned char actual[FC_DIGEST_MAX];

    return !fc_evp_reset(hasher.state) && !hasher.update(hasher.state, item->data, item->size) &&
           !hasher.final(hasher.state, actual) && !memcmp(actual, item->expected, (size_t)hasher.digest_size);
}

void fc_fetch_read(void *context, size_t chunk, int seat)
{
    fc_fetch *fetch = context;
    size_t first = chunk * FC_FETCH_CHUNK, end = first + FC_FETCH_CHUNK;

    for (size_t i = first; i < end && i < fetch->count; i++) {
        fc_wanted *item = &fetch->items[i];
        int64_t size = -1;
        int fd = fc_open_regular(fetch->directory, item->name, &size);

        if (fd < 0 || size < 0)
            continue;
        if ((uint64_t)size == item->size && read_exactly(fd, item->data, item->size))
            item->done = is_right(item, fetch->hasher[seat]);
        close(fd);
    }
}
