/* Small blobs of known sizes and digests, each read into memory of its own and verified, some of them in each step
   of a pool. What happened to a blob stands in its item. */
#ifndef FASTCAS_FETCH_H
#define FASTCAS_FETCH_H

#include "algorithm.h"
#include "small.h"

enum { FC_FETCH_CHUNK = 8, FC_FETCH_THREADS = 2 };

typedef struct {
    const char *name; /* in the directory: the digest in hexadecimal digits */
    size_t size;
    unsigned char *data; /* room for `size` bytes */
    int done;            /* whether `data` is the content: a regular file of that size and digest */
} fc_wanted;

typedef struct {
    int directory;
    fc_wanted *items;
    size_t count, next;
    fc_hasher hashers[FC_FETCH_THREADS]; /* of `algorithm`, by seat */
    const fc_algorithm *algorithm;
} fc_fetch;

/* A step of a pool of at most FC_FETCH_THREADS, see pool.h. */
int fc_fetch_read(void *context, int seat);

#endif
