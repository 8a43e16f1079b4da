/* SHA-256 with the cryptographic extension of ARMv8, two streams in one loop. Tested under emulation; never measured. */
#if defined(__aarch64__)
#include "lanes_kernels.h"

#include <arm_neon.h>
#include <sys/auxv.h>

#ifndef HWCAP_SHA2
#define HWCAP_SHA2 (1 << 6)
#endif

enum { MOST = 2 }; /* lanes */

#define SHA_TARGET "+crypto"
#define TEMPLATE static inline __attribute__((always_inline, target(SHA_TARGET)))

typedef struct {
    uint32x4_t abcd, efgh;
} words;

/* Words 4n to 4n+3 of the message schedule, in place of words 4n-16 to 4n-13. */
TEMPLATE uint32x4_t next_words(const uint32x4_t *w, int n)
{
    return vsha256su1q_u32(vsha256su0q_u32(w[n % 4], w[(n + 1) % 4]), w[(n + 2) % 4], w[(n + 3) % 4]);
}

/* `lanes` is a constant wherever this is inlined. */
TEMPLATE void hash(uint32_t *const state[], const unsigned char *const data[], size_t blocks, const int lanes)
{
    words now[MOST], before[MOST];
    uint32x4_t w[MOST][4], sum[MOST];

    FC_UNROLL for (int i = 0; i < lanes; i++)
        now[i] = (words){vld1q_u32(state[i]), vld1q_u32(state[i] + 4)};
    for (size_t at = 0; at < blocks * FC_SHA256_BLOCK; at += FC_SHA256_BLOCK) {
        FC_UNROLL for (int i = 0; i < lanes; i++)
            before[i] = now[i];
        FC_UNROLL for (int n = 0; n < 16; n++) {
            FC_UNROLL for (int i = 0; i < lanes; i++) {
                if (n < 4)
                    w[i][n] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data[i] + at + 16 * n)));
                else
                    w[i][n % 4] = next_words(w[i], n);
                sum[i] = vaddq_u32(w[i][n % 4], vld1q_u32(fc_sha256_constants + 4 * n));
            }
            FC_UNROLL for (int i = 0; i < lanes; i++) {
                uint32x4_t abcd = now[i].abcd;
                now[i].abcd = vsha256hq_u32(abcd, now[i].efgh, sum[i]);
                now[i].efgh = vsha256h2q_u32(now[i].efgh, abcd, sum[i]);
            }
        }
        FC_UNROLL for (int i = 0; i < lanes; i++) {
            now[i].abcd = vaddq_u32(now[i].abcd, before[i].abcd);
            now[i].efgh = vaddq_u32(now[i].efgh, before[i].efgh);
        }
    }
    FC_UNROLL for (int i = 0; i < lanes; i++) {
        vst1q_u32(state[i], now[i].abcd);
        vst1q_u32(state[i] + 4, now[i].efgh);
    }
}

static __attribute__((target(SHA_TARGET))) void hash_2(uint32_t *const state[], const unsigned char *const data[],
                                                       size_t blocks, int lanes)
{
    if (lanes == 1)
        hash(state, data, blocks, 1);
    else
        hash(state, data, blocks, 2);
}

static int has_sha(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0;
}

const fc_sha256_kernel fc_sha256_x2_armv8 = {"armv8-x2", 2, has_sha, hash_2};

#endif
