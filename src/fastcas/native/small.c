#define _GNU_SOURCE
#include "small.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

static int hash(fc_hasher hasher, const void *data, size_t size, unsigned char *digest)
{
    int status = hasher.update(hasher.state, data, size);

    return status ? status : hasher.final(hasher.state, digest);
}

static void write_hex(char *name, const unsigned char *digest, int size)
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < size; i++) {
        name[2 * i] = digits[digest[i] >> 4];
        name[2 * i + 1] = digits[digest[i] & 15];
    }
    name[2 * size] = 0;
}

/* Reads one byte more than there should be, if there is one. */
static int read_all(fc_small *small, unsigned char *data)
{
    size_t wanted = (size_t)small->size;
    ssize_t n;

    small->found = 0;
    do {
        n = pread(small->fd, data + small->found, wanted + 1 - small->found, (off_t)small->found);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (!small->found && n == (ssize_t)wanted) { /* less than was asked for: that was the end */
            small->found = wanted;
            return 0;
        }
        if (n > 0)
            small->found += (size_t)n;
    } while (n && small->found <= wanted);
    return small->found == wanted ? 0 : small->found < wanted ? FC_ESHORT : FC_ELONG;
}

int fc_small_verify(fc_small *small, fc_hasher hasher, const char *expected, unsigned char *data)
{
    char found[2 * FC_DIGEST_MAX + 1];
    int status = read_all(small, data);

    if (!status)
        status = hash(hasher, data, small->found, small->actual);
    if (status)
        return status;
    write_hex(found, small->actual, hasher.digest_size);
    return memcmp(found, expected, 2 * (size_t)hasher.digest_size) ? FC_EMISMATCH : 0;
}

int fc_small_read(fc_small *small, fc_hasher hasher, int dirfd, const char *name, const char *expected,
                  unsigned char *data)
{
    int status;

    small->fd = fc_open_regular(dirfd, name, &small->size);
    if (small->fd < 0)
        return small->fd;
    if (small->size < 0 || small->size > FC_SMALL)
        return 1;
    status = fc_small_verify(small, hasher, expected, data);
    close(small->fd);
    return status;
}

/* ---- put ---- */

int fc_small_source(const char *path, unsigned char *data, size_t *size)
{
    int64_t expected;
    size_t room = FC_SMALL + 1;
    ssize_t n;
    int fd = fc_open_source(path, &expected), ended = 0;

    if (fd < 0)
        return 1;
    *size = 0;
    /* What says no size may be of those that give their bytes once. */
    while (expected > 0 && expected <= FC_SMALL && !ended && *size <= FC_SMALL) {
        n = read(fd, data + *size, room - *size);
        if (n < 0)
            break;
        *size += (size_t)n;
        ended = !n || (int64_t)*size == expected; /* less than was asked for, where it should end */
    }
    close(fd);
    return !ended || *size > FC_SMALL;
}

static int write_all(int fd, const unsigned char *data, size_t size)
{
    struct stat facts;
    size_t done = 0;

    while (done < size) {
        ssize_t n = pwrite(fd, data + done, size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        done += (size_t)n;
    }
    if (fstat(fd, &facts))
        return -errno;
    return (size_t)facts.st_size == size ? 0 : -EIO;
}

static int name_of(fc_hasher hasher, const unsigned char *data, size_t size, char *name)
{
    unsigned char digest[FC_DIGEST_MAX];
    int status = hash(hasher, data, size, digest);

    if (!status)
        fc_write_hex(name, digest, hasher.digest_size);
    return status;
}

int fc_small_exists(int place, const char *name)
{
    struct stat facts;

    return !fstatat(place, name, &facts, AT_SYMLINK_NOFOLLOW);
}

int fc_small_temp(const fc_small_place *to, int *temp)
{
    int fd = fc_openat2(to->dirfd, ".", O_TMPFILE | O_RDWR, to->mode);

    if (fd < 0)
        return fd == -EOPNOTSUPP || fd == -EISDIR || fd == -ENOSYS || fd == -EPERM || fd == -EMFILE ? 1 : fd;
    if (to->chown && fchown(fd, to->uid, to->gid)) {
        int error = errno;
        close(fd);
        return -error;
    }
    *temp = fd;
    return 0;
}

static int store(const fc_small_place *to, const unsigned char *data, size_t size, int *temp)
{
    int status = fc_small_temp(to, temp);

    if (status)
        return status;
    status = write_all(*temp, data, size);
    if (status)
        close(*temp);
    return status;
}

int fc_small_link(int fd, int place, const char *name)
{
    int status = fc_link_fd(fd, place, name);

    return status == -EEXIST || status == -ENOENT ? 1 : status; /* or no /proc, or the directory has gone */
}

int fc_small_put(fc_hasher hasher, const fc_small_place *to, const unsigned char *data, size_t size, char *name,
                 int *directory)
{
    int fd, place, status = name_of(hasher, data, size, name);

    if (status)
        return status;
    place = fc_openat2(to->dirfd, to->place, O_RDONLY | O_DIRECTORY, 0);
    if (place < 0)
        return 1;
    status = fc_small_exists(place, name) ? 1 : store(to, data, size, &fd);
    if (status) {
        close(place);
        return status;
    }
    if (to->sync && fsync(fd)) /* a failure is final: the pages count as clean from now on */
        status = -errno;
    if (!status)
        status = fc_small_link(fd, place, name);
    close(fd);
    if (status || !to->sync) {
        close(place);
        place = -1;
    }
    *directory = place;
    return status;
}

int fc_small_stage(fc_hasher hasher, const fc_small_place *to, const unsigned char *data, size_t size, char *name,
                   int *temp)
{
    char path[128 + 2 * FC_DIGEST_MAX];
    int there, status = name_of(hasher, data, size, name);

    if (status)
        return status;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", to->place, name) >= sizeof path)
        return 1;
    there = fc_openat2(to->dirfd, path, O_PATH | O_NOFOLLOW, 0);
    if (there >= 0)
        close(there);
    return there == -ENOENT ? store(to, data, size, temp) : 1;
}

int fc_small_name_late(int fd, int place, const char *name)
{
    return futimens(fd, NULL) ? -errno : fc_link_fd(fd, place, name);
}
