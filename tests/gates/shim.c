/* What gates do to the calls of a process, loaded before libc: a protection removed (GATES_SHIM names
   one), or a thread stopped at one of its steps. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
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

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    step(CALL);
    return REAL(pwrite)(fd, data, size, at);
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
