/* What is to be known of a digest algorithm to run it: libcrypto's (evp.h), or the checksum (xxh.h). */
#ifndef FASTCAS_ALGORITHM_H
#define FASTCAS_ALGORITHM_H

#include <stddef.h>

typedef struct fc_algorithm fc_algorithm;

struct fc_algorithm {
    int digest_size;
    const void *md;                               /* libcrypto's */
    void *(*begin)(const fc_algorithm *algorithm); /* a new state, or NULL */
    void *(*copy)(const void *state);
    void (*end)(void *state); /* NULL does nothing */
    /* 0 or FC_EDIGEST; reset makes a used state a new one, at a fifth of the price. */
    int (*reset)(void *state);
    int (*update)(void *state, const void *data, size_t size);
    int (*final)(void *state, unsigned char *digest);
};

#endif
