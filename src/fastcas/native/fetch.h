/* Many small blobs of known sizes and digests at once, each read into memory of its own and verified. A task of a pool; what
   happened to a blob stands in its item. */
#ifndef FASTCAS_FETCH_H
#define FASTCAS_FETCH_H

#include "small.h"

enum {
    FC_FETCH_THREADS = 1, /* a helper that waits for a processor costs more than it reads: measured */
    FC_FETCH_CHUNK = 8, /* blobs that one thread takes at once */
};

typedef struct {
    const char *name; /* in the directory */
    size_t size;
    unsigned char *data; /* room for `size` bytes */
    unsigned char expected[FC_DIGEST_MAX];
    int done; /* whether `data` is the content: a regular file of that size and digest */
} fc_wanted;

typedef struct {
    int directory;
    fc_wanted *items;
    size_t count;
    fc_hasher hasher[FC_FETCH_THREADS]; /* of libcrypto */
} fc_fetch;

size_t fc_fetch_chunks(const fc_fetch *fetch);
void fc_fetch_read(void *fetch, size_t chunk, int seat);

#endif
