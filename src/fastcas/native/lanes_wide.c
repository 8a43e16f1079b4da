/* SHA-256 of 8 or 16 streams with AVX-512, for CPUs whose vectors do more of that than their SHA extensions do of rounds. */
#if defined(__x86_64__)
#include "lanes_kernels.h"

#include <immintrin.h>

enum {
    /* From so many streams on they are quicker so: 8 at a time in vectors of 256 bits, of which the CPU computes more at
       once, 16 in those of 512. */
    FROM_8 = 7,
    FROM_16 = 12,
};

#define TEMPLATE static inline __attribute__((always_inline, target(FC_AVX512)))

TEMPLATE __m256i repeat_256(__m128i x)
{
    return _mm256_broadcastsi128_si256(x);
}

TEMPLATE __m512i repeat_512(__m128i x)
{
    return _mm512_broadcast_i32x4(x);
}

/* Of four rows of words four columns, within each 128 bits. */
#define TRANSPOSE_4(bits, from, to)                                                                                    \
    do {                                                                                                               \
        const __m##bits##i ab = _mm##bits##_unpacklo_epi32((from)[0], (from)[1]);                                      \
        const __m##bits##i AB = _mm##bits##_unpackhi_epi32((from)[0], (from)[1]);                                      \
        const __m##bits##i cd = _mm##bits##_unpacklo_epi32((from)[2], (from)[3]);                                      \
        const __m##bits##i CD = _mm##bits##_unpackhi_epi32((from)[2], (from)[3]);                                      \
        (to)[0] = _mm##bits##_unpacklo_epi64(ab, cd);                                                                  \
        (to)[1] = _mm##bits##_unpackhi_epi64(ab, cd);                                                                  \
        (to)[2] = _mm##bits##_unpacklo_epi64(AB, CD);                                                                  \
        (to)[3] = _mm##bits##_unpackhi_epi64(AB, CD);                                                                  \
    } while (0)

/* Word t of each stream's block in w[t]. */
TEMPLATE void load_block_256(__m256i *w, const unsigned char *const from[], size_t at)
{
    FC_UNROLL for (int half = 0; half < 2; half++) {
        __m256i row[8], part[8];
        FC_UNROLL for (int lane = 0; lane < 8; lane++)
            row[lane] = _mm256_loadu_si256((const __m256i *)(from[lane] + at + 32 * half));
        TRANSPOSE_4(256, row, part);
        TRANSPOSE_4(256, row + 4, part + 4);
        FC_UNROLL for (int i = 0; i < 4; i++) {
            w[8 * half + i] = _mm256_permute2x128_si256(part[i], part[4 + i], 0x20);
            w[8 * half + 4 + i] = _mm256_permute2x128_si256(part[i], part[4 + i], 0x31);
        }
    }
    FC_UNROLL for (int lane = 0; lane < 8; lane++)
        _mm_prefetch((const char *)from[lane] + at + FC_AHEAD, _MM_HINT_T0);
}

TEMPLATE void load_block_512(__m512i *w, const unsigned char *const from[], size_t at)
{
    __m512i row[16], part[16];

    FC_UNROLL for (int lane = 0; lane < 16; lane++) {
        _mm_prefetch((const char *)from[lane] + at + FC_AHEAD, _MM_HINT_T0);
        row[lane] = _mm512_loadu_si512(from[lane] + at);
    }
    FC_UNROLL for (int four = 0; four < 16; four += 4)
        TRANSPOSE_4(512, row + four, part + four);
    /* part[4n + i]: of streams 4n to 4n+3 words i, i+4, i+8 and i+12 */
    FC_UNROLL for (int i = 0; i < 4; i++) {
        const __m512i even_low = _mm512_shuffle_i32x4(part[i], part[4 + i], 0x88);
        const __m512i odd_low = _mm512_shuffle_i32x4(part[i], part[4 + i], 0xDD);
        const __m512i even_high = _mm512_shuffle_i32x4(part[8 + i], part[12 + i], 0x88);
        const __m512i odd_high = _mm512_shuffle_i32x4(part[8 + i], part[12 + i], 0xDD);
        w[i] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
        w[4 + i] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
        w[8 + i] = _mm512_shuffle_i32x4(even_low, even_high, 0xDD);
        w[12 + i] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xDD);
    }
}

#define WIDTH 256
#include "lanes_wide.h"
#undef WIDTH
#define WIDTH 512
#include "lanes_wide.h"

static void hash(uint32_t *const state[], const unsigned char *const data[], size_t blocks, int lanes)
{
    const fc_sha256_kernel *few = &fc_sha256_x2_sha;

    while (lanes) {
        int now = lanes;
        if (lanes >= FROM_16) {
            hash_512(state, data, blocks, now);
        } else if (lanes >= FROM_8) {
            now = lanes < 8 ? lanes : 8;
            hash_256(state, data, blocks, now);
        } else {
            now = lanes < few->lanes ? lanes : few->lanes;
            few->hash(state, data, blocks, now);
        }
        state += now;
        data += now;
        lanes -= now;
    }
}

static int supported(void)
{
    return fc_sha256_x2_sha.supported() && fc_has_avx512();
}

const fc_sha256_kernel fc_sha256_x16_avx512 = {"avx512-x16", 16, supported, hash};

#endif
