/* Blobs that fit into one piece of memory, each at one go: no stream, no thread, no Python object between two system calls.

   Every function returns 0, or a code below, or a negative errno or code of stream.h. None needs the GIL. */
#ifndef FASTCAS_SMALL_H
#define FASTCAS_SMALL_H

#include "stream.h"

enum { FC_SMALL = 64 << 10 };

typedef struct {
    int fd;
    int64_t size;  /* of the file; -1: no regular file */
    size_t found;  /* bytes that could be read: with FC_ESHORT and FC_ELONG another number */
    unsigned char actual[FC_DIGEST_MAX];
} fc_small;

/* Opens the regular file `name` beneath `dirfd`, and does fc_small_verify; closes it. 1: it has more than FC_SMALL bytes, or
   is no regular file (`size` -1); then a larger one is open as `fd`. */
int fc_small_read(fc_small *small, fc_hasher hasher, int dirfd, const char *name, const char *expected,
                  unsigned char *data);
/* Reads the open regular file `fd` of `size` bytes into `data` (FC_SMALL + 1 bytes) and verifies it; `expected` is in
   hexadecimal digits. */
int fc_small_verify(fc_small *small, fc_hasher hasher, const char *expected, unsigned char *data);

/* Reads the regular file `path` into `data` (FC_SMALL + 1 bytes), from its beginning to its end. 1: it is none, has more than
   FC_SMALL bytes, or can't be read: the general way takes it or says what is wrong. */
int fc_small_source(const char *path, unsigned char *data, size_t *size);

typedef struct {
    int dirfd;         /* the root of the layout */
    const char *place; /* the directory of the algorithm, beneath the root */
    unsigned mode;     /* of the new file, less the umask */
    int chown;         /* whether the new file is given to `uid` and `gid` */
    uid_t uid;
    gid_t gid;
    int sync; /* whether the file is synced before it gets its name */
} fc_small_place;

/* Steps of a put. Whether the directory `place` has that name, whatever it stands for. */
int fc_small_exists(int place, const char *name);
/* A new file without a name, open as `*temp`. 1: there can't be one. */
int fc_small_temp(const fc_small_place *to, int *temp);
/* Gives it its name. 1: the name exists, or it can't be given in this way. */
int fc_small_link(int fd, int place, const char *name);

/* Stores `data` under its digest, whose hexadecimal digits go to `name` (2 * FC_DIGEST_MAX + 1 bytes): a file without a
   name is written, its size compared, synced, and linked. 0: done, the directory open as `*directory` (-1 unless `sync`).
   1: nothing was done, because the name exists already or something is unusual (no directory, no O_TMPFILE, no openat2):
   the general way knows what to do. */
int fc_small_put(fc_hasher hasher, const fc_small_place *to, const unsigned char *data, size_t size, char *name,
                 int *directory);
/* The same without the last steps: the file stays without a name, open as `*temp`, and isn't synced. */
int fc_small_stage(fc_hasher hasher, const fc_small_place *to, const unsigned char *data, size_t size, char *name,
                   int *temp);
/* Names a file that was finished a while ago: it is used from now on. 0 or a negative errno. */
int fc_small_name_late(int fd, int place, const char *name);

#endif
