/* What gates do to the calls of a process: protections removed (GATES_SHIM names one). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

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

static int is_directory(int fd, int *nameless)
{
    struct stat facts;

    if (fstat(fd, &facts))
        return 0;
    *nameless = facts.st_nlink == 0;
    return S_ISDIR(facts.st_mode);
}

int fsync(int fd)
{
    int nameless = 0, directory = is_directory(fd, &nameless);

    if (is(directory ? "no-directory-sync" : "no-file-sync") || (nameless && is("name-before-sync")))
        return 0;
    if (!directory && is("no-found-file-sync") && was_found(fd))
        return 0;
    return REAL(fsync)(fd);
}

int flock(int fd, int operation)
{
    return is("no-lock") ? 0 : REAL(flock)(fd, operation);
}

int linkat(int from, const char *path, int to, const char *name, int flags)
{
    int fd = -1, status = REAL(linkat)(from, path, to, name, flags);

    if (status || !is("name-before-sync"))
        return status;
    if (flags & AT_EMPTY_PATH)
        fd = from;
    else
        sscanf(path, "/proc/self/fd/%d", &fd);
    return fd < 0 ? status : REAL(fsync)(fd);
}
