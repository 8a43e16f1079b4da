/* SHA-256 with the SHA extensions of x86-64, several streams in one loop. Each function is compiled for the CPU that it
   needs, so that one build serves every CPU. */
#if defined(__x86_64__)
#include "lanes_kernels.h"

#include <cpuid.h>
#include <immintrin.h>

enum { MOST = 4 }; /* lanes */

/* What every CPU with these extensions has; a caller's wider instruction set is used where this is inlined. */
#define SHA_TARGET "sha,sse4.1"
#define TEMPLATE static inline __attribute__((always_inline, target(SHA_TARGET)))

typedef struct {
    __m128i abef, cdgh;
} words;

/* The instructions want the eight words in this order. */
TEMPLATE words load_state(const uint32_t *state)
{
    __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B);

    return (words){_mm_alignr_epi8(badc, hgfe, 8), _mm_blend_epi16(hgfe, badc, 0xF0)};
}

TEMPLATE void store_state(uint32_t *state, words from)
{
    __m128i feba = _mm_shuffle_epi32(from.abef, 0x1B), dchg = _mm_shuffle_epi32(from.cdgh, 0xB1);

    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* Words 4n+16 to 4n+19 of the message schedule, in place of words 4n to 4n+3. */
TEMPLATE __m128i next_words(const __m128i *w, int n)
{
    __m128i sum = _mm_sha256msg1_epu32(w[n % 4], w[(n + 1) % 4]);

    sum = _mm_add_epi32(sum, _mm_alignr_epi8(w[(n + 3) % 4], w[(n + 2) % 4], 4));
    return _mm_sha256msg2_epu32(sum, w[(n + 3) % 4]);
}

/* `lanes` is a constant wherever this is inlined. In the order of the program no lane uses at once what it has just begun:
   the others and the next words of the schedule come between two rounds that wait for each other. */
TEMPLATE void hash(uint32_t *const state[], const unsigned char *const data[], size_t blocks, const int lanes)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const __m128i *constants = (const __m128i *)fc_sha256_constants;
    words now[MOST], before[MOST];
    __m128i w[MOST][4], sum[MOST];

    FC_UNROLL for (int i = 0; i < lanes; i++)
        now[i] = load_state(state[i]);
    for (size_t at = 0; at < blocks * FC_SHA256_BLOCK; at += FC_SHA256_BLOCK) {
        FC_UNROLL for (int i = 0; i < lanes; i++) {
            const __m128i *block = (const __m128i *)(data[i] + at);
            before[i] = now[i];
            _mm_prefetch((const char *)block + FC_AHEAD, _MM_HINT_T0);
            FC_UNROLL for (int n = 0; n < 4; n++)
                w[i][n] = _mm_shuffle_epi8(_mm_loadu_si128(block + n), big_endian);
        }
        FC_UNROLL for (int n = 0; n < 16; n++) {
            FC_UNROLL for (int i = 0; i < lanes; i++) {
                sum[i] = _mm_add_epi32(w[i][n % 4], constants[n]);
                now[i].cdgh = _mm_sha256rnds2_epu32(now[i].cdgh, now[i].abef, sum[i]);
                if (n < 12)
                    w[i][n % 4] = next_words(w[i], n);
            }
            FC_UNROLL for (int i = 0; i < lanes; i++)
                now[i].abef = _mm_sha256rnds2_epu32(now[i].abef, now[i].cdgh, _mm_shuffle_epi32(sum[i], 0x0E));
        }
        FC_UNROLL for (int i = 0; i < lanes; i++) {
            now[i].abef = _mm_add_epi32(now[i].abef, before[i].abef);
            now[i].cdgh = _mm_add_epi32(now[i].cdgh, before[i].cdgh);
        }
    }
    FC_UNROLL for (int i = 0; i < lanes; i++)
        store_state(state[i], now[i]);
}

/* Two lanes: what fits into 16 vector registers. */
static __attribute__((target(SHA_TARGET))) void hash_2(uint32_t *const state[], const unsigned char *const data[],
                                                       size_t blocks, int lanes)
{
    if (lanes == 1)
        hash(state, data, blocks, 1);
    else
        hash(state, data, blocks, 2);
}

/* 32 vector registers hold four. The tuning is worth a tenth, to compilers that know it. Nothing may be copied with wider
   registers than these: on Intel's CPUs each instruction of the SHA extensions takes a hundred cycles while one of those isn't
   zero beyond 128 bits. GCC can be told, clang can't. */
#if defined(__clang__)
#define TUNE
#elif __GNUC__ >= 11
#define TUNE ",prefer-vector-width=128,tune=znver3"
#else
#define TUNE ",prefer-vector-width=128"
#endif
#define VL_TARGET SHA_TARGET "," FC_AVX512 TUNE

static __attribute__((target(VL_TARGET))) void hash_4(uint32_t *const state[], const unsigned char *const data[],
                                                      size_t blocks, int lanes)
{
    switch (lanes) {
    case 1:
        hash(state, data, blocks, 1);
        break;
    case 2:
        hash(state, data, blocks, 2);
        break;
    case 3:
        hash(state, data, blocks, 3);
        break;
    default:
        hash(state, data, blocks, 4);
    }
}

static int has_sha(void)
{
    unsigned eax, ebx, ecx, edx;

    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.1") || !__builtin_cpu_supports("ssse3"))
        return 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bit_SHA);
}

int fc_is_intel(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_is("intel");
}

int fc_has_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}

static int has_vl(void)
{
#if defined(__clang__)
    if (fc_is_intel()) /* see TUNE */
        return 0;
#endif
    return has_sha() && fc_has_avx512();
}

const fc_sha256_kernel fc_sha256_x4_avx512vl = {"avx512vl-x4", 4, has_vl, hash_4};
const fc_sha256_kernel fc_sha256_x2_sha = {"sha-x2", 2, has_sha, hash_2};

#endif
