/* What a directory has under many names at once. None of these needs the GIL, nor follows a symbolic link at the end of a name. */
#ifndef FASTCAS_NAMES_H
#define FASTCAS_NAMES_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name;
    int fd;     /* O_PATH, where it was opened; else -1 */
    int status; /* 0 or a negative errno */
    unsigned mode;
    int64_t size;
    int64_t modified, changed; /* nanoseconds: mtime, ctime */
} fc_place;

/* Looks at all of them. */
void fc_names_stat(int dirfd, fc_place *places, size_t count);
/* Opens them, and looks at what is open, until one fails (but for ENOENT) or the monotonic clock has `deadline`, in
   nanoseconds, or no descriptor is left: one at least. Returns how many, the one that failed included. */
size_t fc_names_open(int dirfd, fc_place *places, size_t count, uint64_t deadline);
/* Unlinks the names of those `chosen`, in the same way. */
size_t fc_names_unlink(int dirfd, fc_place *places, const size_t *chosen, size_t count, uint64_t deadline);

#endif
