/* SHA-256 of several streams at once. One stream waits most of its time for its own last round; streams that know nothing
   of each other fill those waits, each in a lane of one loop.

   Streams of any lengths, given piece by piece: `fc_lanes_run` goes to the end of the shortest piece, and the lane that it
   leaves behind gets another piece or another stream. Where the CPU has no kernel, and for other algorithms, the algorithm's own
   code does the same with one lane. Nothing here needs the GIL or a thread; one fc_lanes serves one thread at a time. */
#ifndef FASTCAS_LANES_H
#define FASTCAS_LANES_H

#include <stddef.h>
#include <stdint.h>

#include "algorithm.h"

enum { FC_LANES_MAX = 16, FC_SHA256_BLOCK = 64, FC_SHA256_SIZE = 32 };

typedef struct {
    const char *name; /* "avx512vl-x4" */
    int lanes;
    int (*supported)(void); /* by this CPU and its operating system */
    /* `blocks` whole blocks from each of `data`, which may have any alignment, into as many states: 1 to `lanes`. */
    void (*hash)(uint32_t *const state[], const unsigned char *const data[], size_t blocks, int lanes);
} fc_sha256_kernel;

extern const uint32_t fc_sha256_constants[64];

/* The best first; NULL from the first number on that this CPU has none for. */
const fc_sha256_kernel *fc_sha256_supported(size_t number);

typedef enum {
    FC_LANE_IDLE,   /* no stream; skipped */
    FC_LANE_HUNGRY, /* waits for fc_lanes_feed or fc_lanes_end */
    FC_LANE_FED,    /* waits for fc_lanes_run */
    FC_LANE_DONE,   /* its digest waits for fc_lanes_take */
} fc_lane_phase;

typedef struct {
    fc_lane_phase phase;
    uint32_t state[8];
    uint64_t size;             /* bytes of the stream so far */
    const unsigned char *data; /* what was fed and isn't hashed */
    size_t left;
    unsigned char block[2 * FC_SHA256_BLOCK]; /* the beginning of a block, or the padded end */
    size_t filled;                            /* bytes in `block` */
    int ending;
    int padded;
} fc_lanes_stream;

typedef struct {
    const fc_sha256_kernel *kernel;
    const fc_algorithm *algorithm; /* without a kernel: */
    void *state;
    int digest_size;
    int lanes; /* 1 without a kernel */
    fc_lanes_stream stream[FC_LANES_MAX];
} fc_lanes;

/* `kernel`: of fc_sha256_supported, for SHA-256; or NULL, and the algorithm. 0 or FC_EDIGEST. */
int fc_lanes_open(fc_lanes *lanes, const fc_sha256_kernel *kernel, const fc_algorithm *algorithm);
void fc_lanes_close(fc_lanes *lanes);
/* A new stream in a lane, whatever was there: HUNGRY. 0 or FC_EDIGEST. */
int fc_lanes_start(fc_lanes *lanes, int lane);
/* The next `size` bytes of a HUNGRY lane; they must stay as they are until it is HUNGRY again. */
void fc_lanes_feed(fc_lanes *lanes, int lane, const void *data, size_t size);
/* There are no more, for a lane that is HUNGRY or was fed just now: a run makes it DONE instead of HUNGRY. */
void fc_lanes_end(fc_lanes *lanes, int lane);
/* Hashes until a lane is HUNGRY or DONE, which is at once where one is so already; idle lanes don't count.
   0 or FC_EDIGEST. */
int fc_lanes_run(fc_lanes *lanes);
/* The digest of a DONE lane, `digest_size` bytes, and its `size`: IDLE. */
uint64_t fc_lanes_take(fc_lanes *lanes, int lane, unsigned char *digest);
/* Forgets what is in a lane: IDLE. */
void fc_lanes_drop(fc_lanes *lanes, int lane);

#endif
