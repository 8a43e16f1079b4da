#define _GNU_SOURCE
#include "out.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { KICK = 1 << 20 };

/* Only a head start: the fsync at the end is what counts. */
static int kick(fc_out *out)
{
    if (sync_file_range(out->fd, (off_t)out->kicked, (off_t)(out->written - out->kicked), SYNC_FILE_RANGE_WRITE)) {
        if (errno == EIO || errno == ENOSPC || errno == EDQUOT)
            return -errno;
        out->writeback = 0;
    }
    out->kicked = out->written;
    return 0;
}

int fc_out_write(fc_out *out, const unsigned char *data, size_t size)
{
    while (size) {
        ssize_t n = pwrite(out->fd, data, size, (off_t)out->written);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        data += n;
        size -= (size_t)n;
        out->written += (uint64_t)n;
    }
    return out->writeback && out->written - out->kicked >= KICK ? kick(out) : 0;
}
