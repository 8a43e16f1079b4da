#define _GNU_SOURCE
#include "names.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ring.h"

static int64_t nanoseconds(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void note(fc_place *place, int failed, const struct stat *facts)
{
    place->status = failed ? -errno : 0;
    if (failed)
        return;
    place->mode = facts->st_mode;
    place->size = (int64_t)facts->st_size;
    place->modified = nanoseconds(facts->st_mtim);
    place->changed = nanoseconds(facts->st_ctim);
}

void fc_names_stat(int dirfd, fc_place *places, size_t count)
{
    struct stat facts;

    for (size_t i = 0; i < count; i++)
        note(&places[i], fstatat(dirfd, places[i].name, &facts, AT_SYMLINK_NOFOLLOW), &facts);
}

static int goes_on(int status, uint64_t deadline)
{
    return (!status || status == -ENOENT) && !fc_past(deadline);
}

size_t fc_names_open(int dirfd, fc_place *places, size_t count, uint64_t deadline)
{
    struct stat facts;

    for (size_t i = 0; i < count; i++) {
        places[i].fd = openat(dirfd, places[i].name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (places[i].fd < 0 && errno == EMFILE && i)
            return i; /* so many at once it can be */
        note(&places[i], places[i].fd < 0 || fstat(places[i].fd, &facts), &facts);
        if (!goes_on(places[i].status, deadline))
            return i + 1;
    }
    return count;
}

size_t fc_names_unlink(int dirfd, fc_place *places, const size_t *chosen, size_t count, uint64_t deadline)
{
    for (size_t i = 0; i < count; i++) {
        fc_place *place = &places[chosen[i]];
        place->status = unlinkat(dirfd, place->name, 0) ? -errno : 0;
        if (!goes_on(place->status, deadline))
            return i + 1;
    }
    return count;
}
