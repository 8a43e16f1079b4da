#define _GNU_SOURCE
#include "sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

enum { TRIES = 16 };

int fc_openat2(int dirfd, const char *name, int flags, unsigned mode)
{
    /* linux/openat2.h: struct open_how; RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS */
    const struct {
        uint64_t flags, mode, resolve;
    } how = {(uint64_t)(unsigned)flags | O_CLOEXEC, mode, 0x08 | 0x04 | 0x02};
    long fd = -1;

    for (int i = 0; i < TRIES; i++) { /* EAGAIN: a race with a rename, or a file that is leased, which may last */
        fd = syscall(SYS_openat2, dirfd, name, &how, sizeof how);
        if (fd >= 0 || (errno != EINTR && errno != EAGAIN))
            break;
    }
    return fd < 0 ? -errno : (int)fd;
}

int fc_open_regular(int dirfd, const char *name, int64_t *size)
{
    struct stat facts;
    int fd = fc_openat2(dirfd, name, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);

    if (fd < 0)
        return fd;
    if (fstat(fd, &facts)) {
        int error = errno;
        close(fd);
        return -error;
    }
    *size = S_ISREG(facts.st_mode) ? (int64_t)facts.st_size : -1;
    if (*size < 0)
        close(fd);
    return fd;
}

int fc_open_source(const char *path, int64_t *size)
{
    struct stat facts;
    int fd, error;

    if (stat(path, &facts))
        return -errno;
    if (!S_ISREG(facts.st_mode))
        return -EINVAL;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    error = fstat(fd, &facts) ? errno : S_ISREG(facts.st_mode) ? 0 : EINVAL;
    if (error) {
        close(fd);
        return -error;
    }
    *size = (int64_t)facts.st_size;
    return fd;
}

int fc_link_fd(int fd, int dirfd, const char *name)
{
    char path[32];

    if (!linkat(fd, "", dirfd, name, AT_EMPTY_PATH))
        return 0;
    if (errno != ENOENT && errno != EPERM) /* what a process without CAP_DAC_READ_SEARCH gets before Linux 6.10 */
        return -errno;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, path, dirfd, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

struct entry {
    uint64_t inode;
    int64_t next;
    unsigned short size;
    unsigned char type;
    char name[];
};

int fc_same_file(int fd, int other)
{
    struct stat one, two;

    if (fstat(fd, &one) || fstat(other, &two))
        return -errno;
    return one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

int fc_read_names(int dirfd, char *buffer, size_t size)
{
    long n = syscall(SYS_getdents64, dirfd, buffer, size);
    return n < 0 ? -errno : (int)n;
}

int fc_is_hex(const char *name, size_t digits)
{
    unsigned char wrong = 0;

    if (strlen(name) != digits)
        return 0;
    for (size_t i = 0; i < digits; i++) { /* without a way out, so that the compiler can take many at once */
        unsigned char c = (unsigned char)name[i];
        wrong |= !(((unsigned char)(c - '0') < 10) | ((unsigned char)(c - 'a') < 6));
    }
    return !wrong;
}

void fc_write_hex(char *name, const unsigned char *digest, int size)
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < size; i++) {
        name[2 * i] = digits[digest[i] >> 4];
        name[2 * i + 1] = digits[digest[i] & 15];
    }
    name[2 * size] = 0;
}

const char *fc_next_name(const char *buffer, int *offset, int *regular)
{
    const struct entry *entry = (const struct entry *)(buffer + *offset);

    *offset += entry->size;
    *regular = entry->type == DT_REG ? 1 : entry->type == DT_UNKNOWN ? -1 : 0;
    return entry->name;
}

size_t fc_count_pair(const char *data, size_t size, char first, char second)
{
    size_t count = 0;

    for (size_t i = 1; i < size; i++) /* without a way out, so that the compiler can take many at once */
        count += (data[i - 1] == first) & (data[i] == second);
    return count;
}
