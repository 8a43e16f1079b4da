/* Small blobs of known sizes and digests, each read into memory of its own and verified, a chunk of them in each call. On one
   thread: a second one that waits for a processor costs more than it reads. What happened to a blob stands in its item. */
#ifndef FASTCAS_FETCH_H
#define FASTCAS_FETCH_H

#include "algorithm.h"
#include "small.h"

enum { FC_FETCH_CHUNK = 64 };

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
    fc_hasher hasher; /* of `algorithm` */
    const fc_algorithm *algorithm;
} fc_fetch;

/* 0: that was all. */
int fc_fetch_read(fc_fetch *fetch);

#endif
