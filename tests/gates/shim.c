/* What gates do to the calls of a process, loaded before libc: a protection removed (GATES_SHIM names
   one), a thread stopped at one of its steps, or reads and writes that do less than they were asked for (GATES_IO). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* ---- steps: a thread that has called gates_arm(n, kinds) stops before its nth call of these kinds, until
   gates_release() is called by another; gates_stopped says whether it has, gates_in_flock how many threads
   are waiting for a lock, or just taking it. */

enum { CALL = 1, LOCK = 2 };

static __thread int steps_left, step_kinds;
static sem_t go;
volatile int gates_stopped, gates_in_flock;

void gates_arm(int steps, int kinds)
{
    sem_init(&go, 0, 0);
    gates_stopped = 0;
    step_kinds = kinds;
    steps_left = steps;
}

void gates_release(void)
{
    sem_post(&go);
}

static void step(int kind)
{
    if (!(step_kinds & kind) || !steps_left || --steps_left)
        return;
    gates_stopped = 1;
    while (sem_wait(&go))
        ;
}

/* ---- mutants */

static int is(const char *mutant)
{
    const char *chosen = getenv("GATES_SHIM");

    return chosen && !strcmp(chosen, mutant);
}

/* Files that are new are open for writing; those that were found are not. */
static int was_found(int fd)
{
    return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
}

static int skips_sync(int fd)
{
    struct stat facts;

    if (fstat(fd, &facts))
        return 0;
    if (S_ISDIR(facts.st_mode))
        return is("no-directory-sync");
    return is("no-file-sync") || (is("name-before-sync") && !facts.st_nlink) ||
           (is("no-found-file-sync") && was_found(fd));
}

/* ---- reads and writes: GATES_IO is the most bytes that one moves, or "interrupted": of seven calls one is, or "lies": a write
   leaves out its last byte and says that it didn't. */

enum { DESCRIPTORS = 4096 };
static off_t lost[DESCRIPTORS]; /* bytes of each file that its writer believes to be there */

static int is_condition(const char *name)
{
    const char *value = getenv("GATES_IO");

    return value && !strcmp(value, name);
}

static int interrupted(void)
{
    static unsigned calls;

    if (!is_condition("interrupted") || __sync_add_and_fetch(&calls, 1) % 7)
        return 0;
    errno = is("interruptions-are-errors") ? EIO : EINTR;
    return 1;
}

static int is_file(int fd)
{
    struct stat facts;

    return fd < DESCRIPTORS && !REAL(fstat)(fd, &facts) && S_ISREG(facts.st_mode);
}

/* How much of `size` is moved. Pipes and terminals are the test's own. */
static size_t some(int fd, size_t size)
{
    const char *value = getenv("GATES_IO");
    size_t most = value ? strtoul(value, NULL, 10) : 0;

    return most && most < size && is_file(fd) ? most : size;
}

ssize_t read(int fd, void *data, size_t size)
{
    return interrupted() ? -1 : REAL(read)(fd, data, some(fd, size));
}

ssize_t pread64(int fd, void *data, size_t size, off_t at)
{
    return interrupted() ? -1 : REAL(pread)(fd, data, some(fd, size), at);
}

ssize_t pread(int fd, void *data, size_t size, off_t at)
{
    return pread64(fd, data, size, at);
}

/* What comes later takes the place of what is lost, so that the file gets too short. */
static ssize_t lie(int fd, const void *data, size_t size, off_t at)
{
    ssize_t n;

    if (!at)
        lost[fd] = 0;
    n = REAL(pwrite)(fd, data, size > 1 ? size - 1 : size, at - lost[fd]);
    if (size < 2 || n != (ssize_t)size - 1)
        return n;
    lost[fd]++;
    return (ssize_t)size;
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (interrupted())
        return -1;
    if (is_condition("lies") && size && is_file(fd)) {
        off_t at = lseek(fd, 0, SEEK_CUR);
        ssize_t n = lie(fd, data, size, at);
        if (n > 0)
            lseek(fd, at + n, SEEK_SET);
        return n;
    }
    return REAL(write)(fd, data, some(fd, size));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at)
{
    step(CALL);
    if (interrupted())
        return -1;
    if (is_condition("lies") && size && is_file(fd))
        return lie(fd, data, size, at);
    if (is("offsets-of-32-bits"))
        at &= 0xffffffff;
    return REAL(pwrite)(fd, data, some(fd, size), at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    return pwrite64(fd, data, size, at);
}

ssize_t sendfile(int to, int from, off_t *at, size_t size)
{
    return interrupted() ? -1 : REAL(sendfile)(to, from, at, some(from, size));
}

ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t size, unsigned flags)
{
    return interrupted() ? -1 : REAL(copy_file_range)(from, in, to, out, some(from, size), flags);
}

int fstat(int fd, struct stat *facts)
{
    int status = REAL(fstat)(fd, facts);

    if (!status && is("no-size-check") && fd < DESCRIPTORS && S_ISREG(facts->st_mode))
        facts->st_size += lost[fd];
    return status;
}

/* ---- the calls */

int fsync(int fd)
{
    int status;

    step(CALL);
    if (skips_sync(fd))
        return 0;
    status = REAL(fsync)(fd);
    if (status && is("syncs-tried-again"))
        status = REAL(fsync)(fd);
    return is("sync-errors-ignored") ? 0 : status;
}

int flock(int fd, int operation)
{
    int status;

    step(LOCK);
    if (is("no-lock"))
        return 0;
    __sync_add_and_fetch(&gates_in_flock, 1);
    status = REAL(flock)(fd, operation);
    __sync_sub_and_fetch(&gates_in_flock, 1);
    return status;
}

int linkat(int from, const char *path, int to, const char *name, int flags)
{
    int status, fd = -1;

    step(CALL);
    status = REAL(linkat)(from, path, to, name, flags);
    if (status || !is("name-before-sync"))
        return status;
    if (flags & AT_EMPTY_PATH)
        fd = from;
    else
        sscanf(path, "/proc/self/fd/%d", &fd);
    return fd < 0 ? status : REAL(fsync)(fd);
}

int renameat(int from, const char *old, int to, const char *new)
{
    step(CALL);
    return REAL(renameat)(from, old, to, new);
}

int unlinkat(int at, const char *name, int flags)
{
    step(CALL);
    return REAL(unlinkat)(at, name, flags);
}

int mkdirat(int at, const char *name, mode_t mode)
{
    step(CALL);
    return REAL(mkdirat)(at, name, mode);
}

int futimens(int fd, const struct timespec times[2])
{
    step(CALL);
    return REAL(futimens)(fd, times);
}

long syscall(long number, ...)
{
    long a[6];
    va_list list;

    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_openat2)
        step(CALL);
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
