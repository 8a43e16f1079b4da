/* A new file that is written from its beginning to its end. */
#ifndef FASTCAS_OUT_H
#define FASTCAS_OUT_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int fd;        /* -1: none */
    int writeback; /* start the disk early, because an fsync will follow */
    uint64_t written, kicked;
} fc_out;

/* Writes the next bytes. 0 or a negative errno. */
int fc_out_write(fc_out *out, const unsigned char *data, size_t size);

#endif
