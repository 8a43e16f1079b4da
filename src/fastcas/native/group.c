#define _GNU_SOURCE
#include "group.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "evp.h"

size_t fc_group_chunks(const fc_group *group)
{
    return (group->count + FC_GROUP_CHUNK - 1) / FC_GROUP_CHUNK;
}

/* Whatever is wrong with the file is left to the general way, which says it in its words. */
static int read_path(fc_item *item, unsigned char *memory)
{
    struct stat facts;
    size_t found = 0;
    ssize_t n = -1;
    int fd = open(item->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0)
        return 1;
    if (!fstat(fd, &facts) && S_ISREG(facts.st_mode))
        while ((n = read(fd, memory + found, FC_SMALL + 1 - found)) > 0 || (n < 0 && errno == EINTR)) {
            found += n > 0 ? (size_t)n : 0;
            if (found > FC_SMALL || (n > 0 && found == (size_t)facts.st_size && n < FC_SMALL))
                break; /* a regular file gave less than it was asked for: that was its end */
        }
    close(fd);
    item->size = found;
    return n < 0 || found > FC_SMALL;
}

static int store(const fc_group *group, fc_item *item, fc_hasher hasher, unsigned char *memory)
{
    const unsigned char *data = item->data;
    int status = 0;

    if (!data) {
        status = read_path(item, memory);
        data = memory;
    }
    if (!status)
        status = fc_evp_reset(hasher.state);
    if (!status)
        status = fc_small_name(hasher, data, item->size, item->name);
    if (!status && fc_small_exists(group->place, item->name))
        status = 1;
    return status ? status : fc_small_store(group->to, data, item->size, &item->fd);
}

static void publish(const fc_group *group, fc_item *item)
{
    if (item->fd < 0)
        return;
    if (!item->status)
        item->status = fc_small_link(item->fd, group->place, item->name);
    close(item->fd);
    item->fd = -1;
}

void fc_group_store(void *context, size_t chunk, int seat)
{
    fc_group *group = context;
    size_t first = chunk * FC_GROUP_CHUNK, end = first + FC_GROUP_CHUNK;

    for (size_t i = first; i < end && i < group->count; i++) {
        group->items[i].status =
            store(group, &group->items[i], group->seat[seat].hasher, group->seat[seat].slab);
        if (group->publish)
            publish(group, &group->items[i]);
    }
}

void fc_group_publish(void *context, size_t number, int seat)
{
    const fc_group *group = context;

    (void)seat;
    publish(group, &group->items[number]);
}

void fc_files_kick(void *context, size_t file, int seat)
{
    fc_files *files = context;

    (void)seat;
    /* Only a head start, but what fails already needs no fsync, which may not say it again. */
    if (sync_file_range(files->fds[file], 0, 0, SYNC_FILE_RANGE_WRITE) &&
        (errno == EIO || errno == ENOSPC || errno == EDQUOT))
        files->statuses[file] = errno;
}

void fc_files_sync(void *context, size_t file, int seat)
{
    fc_files *files = context;

    (void)seat;
    if (!files->statuses[file] && fsync(files->fds[file]))
        files->statuses[file] = errno;
}
