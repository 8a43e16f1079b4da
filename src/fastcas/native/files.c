#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

void fc_files_kick(fc_files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        files->statuses[i] = 0;
        /* Only a head start, but what fails already needs no fsync, which may not say it again. */
        if (sync_file_range(files->fds[i], 0, 0, SYNC_FILE_RANGE_WRITE) &&
            (errno == EIO || errno == ENOSPC || errno == EDQUOT))
            files->statuses[i] = -errno;
    }
}

int fc_files_sync(void *context, int seat)
{
    fc_files *files = context;
    size_t file = __atomic_fetch_add(&files->next, 1, __ATOMIC_RELAXED);

    (void)seat;
    if (file >= files->count)
        return 0;
    if (!files->statuses[file] && fsync(files->fds[file]))
        files->statuses[file] = -errno;
    return 1;
}
