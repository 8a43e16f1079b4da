#include "lanes.h"

#include <string.h>

#include "lanes_kernels.h"
#include "stream.h"

/* FIPS 180-4, 4.2.2 */
_Alignas(64) const uint32_t fc_sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* FIPS 180-4, 5.3.3 */
static const uint32_t INITIAL[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

const fc_sha256_kernel *fc_sha256_supported(size_t number)
{
    const fc_sha256_kernel *const kernels[] = {
#if defined(__x86_64__)
        /* Intel's CPUs are quicker with vectors, AMD's with the SHA extensions. */
        fc_is_intel() ? &fc_sha256_x16_avx512 : &fc_sha256_x4_avx512vl,
        fc_is_intel() ? &fc_sha256_x4_avx512vl : &fc_sha256_x16_avx512,
        &fc_sha256_x2_sha,
#elif defined(__aarch64__)
        &fc_sha256_x2_armv8,
#endif
        NULL,
    };

    for (const fc_sha256_kernel *const *kernel = kernels; *kernel; kernel++)
        if ((*kernel)->supported() && !number--)
            return *kernel;
    return NULL;
}

int fc_lanes_open(fc_lanes *lanes, const fc_sha256_kernel *kernel, const fc_algorithm *algorithm)
{
    memset(lanes, 0, sizeof *lanes);
    lanes->kernel = kernel;
    lanes->lanes = kernel ? kernel->lanes : 1;
    lanes->digest_size = kernel ? FC_SHA256_SIZE : algorithm->digest_size;
    lanes->algorithm = algorithm;
    if (!kernel && !(lanes->state = algorithm->begin(algorithm)))
        return FC_EDIGEST;
    return 0;
}

void fc_lanes_close(fc_lanes *lanes)
{
    if (lanes->state)
        lanes->algorithm->end(lanes->state);
    lanes->state = NULL;
}

int fc_lanes_start(fc_lanes *lanes, int lane)
{
    fc_lanes_stream *stream = &lanes->stream[lane];

    memcpy(stream->state, INITIAL, sizeof INITIAL);
    stream->phase = FC_LANE_HUNGRY;
    stream->size = 0;
    stream->left = stream->filled = 0;
    stream->ending = stream->padded = 0;
    return lanes->state ? lanes->algorithm->reset(lanes->state) : 0;
}

void fc_lanes_feed(fc_lanes *lanes, int lane, const void *data, size_t size)
{
    fc_lanes_stream *stream = &lanes->stream[lane];

    stream->data = data;
    stream->left = size;
    stream->size += size;
    stream->phase = FC_LANE_FED;
}

void fc_lanes_end(fc_lanes *lanes, int lane)
{
    lanes->stream[lane].ending = 1;
    lanes->stream[lane].phase = FC_LANE_FED;
}

/* The one bit, the zeros and the length that close a message. */
static void pad(fc_lanes_stream *stream)
{
    size_t end = stream->filled + 9 > FC_SHA256_BLOCK ? 2 * FC_SHA256_BLOCK : FC_SHA256_BLOCK;
    uint64_t bits = stream->size << 3;

    memset(stream->block + stream->filled, 0, end - stream->filled);
    stream->block[stream->filled] = 0x80;
    for (int i = 1; i <= 8; i++, bits >>= 8)
        stream->block[end - (size_t)i] = (unsigned char)bits;
    stream->filled = end;
    stream->padded = 1;
}

static size_t buffer(fc_lanes_stream *stream)
{
    size_t room = FC_SHA256_BLOCK - stream->filled, size = stream->left < room ? stream->left : room;

    if (size)
        memcpy(stream->block + stream->filled, stream->data, size);
    stream->data += size;
    stream->left -= size;
    stream->filled += size;
    return stream->filled / FC_SHA256_BLOCK;
}

/* The whole blocks that come next, from `*data` on; 0 when there are none, and then the phase is HUNGRY or DONE. */
static size_t next_blocks(fc_lanes_stream *stream, const unsigned char **data)
{
    size_t blocks;

    if (!stream->filled && stream->left >= FC_SHA256_BLOCK) {
        *data = stream->data;
        return stream->left / FC_SHA256_BLOCK;
    }
    *data = stream->block;
    if (stream->padded) {
        if (!stream->filled)
            stream->phase = FC_LANE_DONE;
        return stream->filled / FC_SHA256_BLOCK;
    }
    blocks = buffer(stream);
    if (blocks)
        return blocks;
    if (!stream->ending) {
        stream->phase = FC_LANE_HUNGRY;
        return 0;
    }
    pad(stream);
    return stream->filled / FC_SHA256_BLOCK;
}

/* `blocks` of those are hashed. */
static void advance(fc_lanes_stream *stream, const unsigned char *data, size_t blocks)
{
    size_t size = blocks * FC_SHA256_BLOCK;

    if (data == stream->data) {
        stream->data += size;
        stream->left -= size;
        return;
    }
    stream->filled -= size; /* the second of two padded blocks, when it had to wait, becomes the first */
    memmove(stream->block, stream->block + size, stream->filled);
}

static int run_alone(fc_lanes *lanes)
{
    fc_lanes_stream *stream = &lanes->stream[0];
    int status = 0;

    if (stream->phase != FC_LANE_FED)
        return 0;
    if (stream->left)
        status = lanes->algorithm->update(lanes->state, stream->data, stream->left);
    stream->left = 0;
    if (!status && stream->ending)
        status = lanes->algorithm->final(lanes->state, stream->block);
    stream->phase = stream->ending ? FC_LANE_DONE : FC_LANE_HUNGRY;
    return status;
}

int fc_lanes_run(fc_lanes *lanes)
{
    if (!lanes->kernel)
        return run_alone(lanes);
    for (;;) {
        fc_lanes_stream *running[FC_LANES_MAX];
        uint32_t *state[FC_LANES_MAX];
        const unsigned char *data[FC_LANES_MAX];
        size_t shortest = SIZE_MAX;
        int count = 0, waiting = 0;

        for (int i = 0; i < lanes->lanes; i++) {
            fc_lanes_stream *stream = &lanes->stream[i];
            if (stream->phase == FC_LANE_IDLE)
                continue;
            size_t blocks = stream->phase == FC_LANE_FED ? next_blocks(stream, &data[count]) : 0;
            if (!blocks) {
                waiting = 1;
                continue;
            }
            if (blocks < shortest)
                shortest = blocks;
            state[count] = stream->state;
            running[count++] = stream;
        }
        if (waiting || !count)
            return 0;
        lanes->kernel->hash(state, data, shortest, count);
        for (int i = 0; i < count; i++)
            advance(running[i], data[i], shortest);
    }
}

uint64_t fc_lanes_take(fc_lanes *lanes, int lane, unsigned char *digest)
{
    fc_lanes_stream *stream = &lanes->stream[lane];

    if (lanes->state)
        memcpy(digest, stream->block, (size_t)lanes->digest_size);
    else
        for (int i = 0; i < 8; i++)
            for (int byte = 0; byte < 4; byte++)
                digest[4 * i + byte] = (unsigned char)(stream->state[i] >> (24 - 8 * byte));
    stream->phase = FC_LANE_IDLE;
    return stream->size;
}

void fc_lanes_drop(fc_lanes *lanes, int lane)
{
    lanes->stream[lane].phase = FC_LANE_IDLE;
}
