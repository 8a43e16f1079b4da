#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* The number of the next file for a step, or the count: there is none. */
static size_t take(fc_files *files)
{
    size_t file = __atomic_fetch_add(&files->next, 1, __ATOMIC_RELAXED);

    return file < files->count ? file : files->count;
}

int fc_files_kick(void *context, int seat)
{
    fc_files *files = context;
    size_t file = take(files);

    (void)seat;
    if (file == files->count)
        return 0;
    /* Only a head start, but what fails already needs no fsync, which may not say it again. */
    if (sync_file_range(files->fds[file], 0, 0, SYNC_FILE_RANGE_WRITE) &&
        (errno == EIO || errno == ENOSPC || errno == EDQUOT))
        files->statuses[file] = errno;
    return 1;
}

int fc_files_sync(void *context, int seat)
{
    fc_files *files = context;
    size_t file = take(files);

    (void)seat;
    if (file == files->count)
        return 0;
    while (!files->statuses[file] && fsync(files->fds[file]))
        if (errno != EINTR)
            files->statuses[file] = errno;
    return 1;
}
