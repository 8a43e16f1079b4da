/* Streams of bytes that are hashed while they move: into a file (sink), out of one (reader), or nowhere (a digest).

   The calling thread reads and writes; above a size a helper thread does nothing but hash. Hashing is the slowest of
   the three, so the whole runs at the speed of one digest. What is hashed is always the memory that is written or
   handed out, never a second reading of the source.

   Every function returns 0 or a count, or a negative errno, or one of the codes below. None needs the GIL. */
#ifndef FASTCAS_STREAM_H
#define FASTCAS_STREAM_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "out.h"

enum {
    FC_EDIGEST = -10001,   /* the digest implementation failed: fc_evp_reason says why */
    FC_ELIMIT = -10002,    /* the source holds more bytes than the caller allows */
    FC_EFORKED = -10003,   /* the helper thread stayed behind in the parent process */
    FC_ESHORT = -10004,    /* fewer bytes than the stated size */
    FC_ELONG = -10005,     /* more bytes than the stated size */
    FC_EMISMATCH = -10006, /* the digest differs */
};

enum {
    FC_SLOTS = 8,
    FC_SLOT_SMALL = 64 << 10,
    FC_SLOT_LARGE = 256 << 10,
    FC_SLAB = FC_SLOTS * FC_SLOT_LARGE,
    FC_DIGEST_MAX = 64,
};

/* Below so many bytes a helper thread costs more than it saves, which is less where nothing is written. From
   FC_LARGE_FROM on larger slots win. */
#define FC_SINK_THREAD_FROM ((uint64_t)512 << 10)
#define FC_READER_THREAD_FROM ((uint64_t)1 << 20)
#define FC_LARGE_FROM ((uint64_t)32 << 20)

/* A digest in the making. update and final return 0 or FC_EDIGEST. */
typedef struct {
    int (*update)(void *state, const void *data, size_t size);
    int (*final)(void *state, unsigned char *digest);
    void *state;
    int digest_size;
    int may_thread; /* update may run on the helper thread */
} fc_hasher;

/* A queue of FC_SLOTS pieces of memory, hashed in order by one helper thread. */
typedef struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t queued;
    struct {
        const void *data;
        size_t size;
    } piece[FC_SLOTS];
    uint64_t head, tail; /* pieces queued, pieces hashed */
    fc_hasher hasher;
    int status, stop, ended;
    pid_t owner; /* the process that has the thread; 0: not started */
} fc_ring;

typedef struct {
    fc_hasher hasher;
    fc_ring ring;
    unsigned char *slab; /* FC_SLAB bytes, the caller's */
    size_t slot_size;
    int threaded;
} fc_lane;

/* ---- sink: hash and store ---- */

typedef struct {
    fc_lane lane;
    fc_hasher checksum; /* of what is stored, made by the calling thread; without `update`: none */
    fc_out out;     /* without a file (-1) they are only hashed */
    int polled;     /* the source may block: wait for it in short steps */
    size_t fill;    /* bytes in the slot that is being filled */
    uint64_t size;  /* bytes taken from the source so far */
    uint64_t limit; /* more than this is FC_ELIMIT */
    int storing;    /* the failure was the file's, not the source's */
    pid_t owner;    /* the process that may store: a forked child has the same file */
} fc_sink;

void fc_sink_init(fc_sink *sink, fc_hasher hasher, unsigned char *slab, int fd, int writeback, uint64_t limit,
                  int64_t expected);
/* Takes bytes from `source` at its own offset. 1: call again (a signal came, a tenth of a second or `burst` bytes went
   by, or nothing arrived); 0: the end. */
int fc_sink_pull(fc_sink *sink, int source, uint64_t burst);
/* Takes `size` bytes; `*done` is how far it came. `stable`: the memory can't change, so large pieces are hashed and
   written where they lie; otherwise they are copied once into a slot. 1: call again; 0: all taken. */
int fc_sink_push(fc_sink *sink, const unsigned char *data, size_t size, int stable, uint64_t burst, size_t *done);
/* The free part of the slot that is being filled; then how many bytes were put there. */
int fc_sink_slot(fc_sink *sink, unsigned char **data, size_t *size);
int fc_sink_filled(fc_sink *sink, size_t size);
/* All written, all hashed, the file as long as the bytes that were hashed (else -EIO). */
int fc_sink_finish(fc_sink *sink, unsigned char *digest);
/* Ends the helper thread, in any state, any number of times. */
void fc_sink_close(fc_sink *sink);

/* ---- reader: hand out verified bytes ---- */

typedef struct {
    fc_lane lane;
    int fd;
    uint64_t size;   /* exactly what is handed out */
    uint64_t offset; /* bytes read from the file, and hashed or queued for it */
    unsigned char *slot;
    size_t fill, taken; /* bytes in the slot, and how many of them were handed out */
    int verified;
    unsigned char expected[FC_DIGEST_MAX], actual[FC_DIGEST_MAX];
} fc_reader;

void fc_reader_init(fc_reader *reader, fc_hasher hasher, unsigned char *slab, int fd, uint64_t size,
                    const unsigned char *expected);
/* Copies the next bytes to `out`; `*done` is how far it came. The last bytes are handed out after size and digest were
   found right. 1: call again; 0: `out` is full or the data is at its end. */
int fc_reader_read(fc_reader *reader, unsigned char *out, size_t size, size_t *done);
/* From the beginning to the end straight into `out`, which nobody else sees yet. 1: call again. */
int fc_reader_read_all(fc_reader *reader, unsigned char *out);
/* Reads and hashes what is left without handing it out. 1: call again. */
int fc_reader_drain(fc_reader *reader);
void fc_reader_close(fc_reader *reader);

/* ---- copy without hashing ---- */

typedef enum { FC_REFLINK, FC_COPY_FILE_RANGE, FC_SENDFILE, FC_COPY } fc_copy_method;

/* Goes on from `*offset` of the source and from the target's own offset up to `size`, by `*method` or what comes after
   it on the ladder, `*step` bytes at once, which adapts itself between 1 MiB and `most`. `slab` has FC_SLAB bytes.
   1: call again; 0: done. */
int fc_copy(int source, int target, fc_copy_method *method, uint64_t *offset, uint64_t size, uint64_t *step,
            uint64_t most, unsigned char *slab);

#endif
