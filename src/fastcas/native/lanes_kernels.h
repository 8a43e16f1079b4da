/* The kernels there are, for the dispatch in lanes.c alone. */
#ifndef FASTCAS_LANES_KERNELS_H
#define FASTCAS_LANES_KERNELS_H

#include "lanes.h"

/* Before a loop of at most 16 turns: all of them are written out. */
#if defined(__clang__)
#define FC_UNROLL _Pragma("unroll")
#else
#define FC_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__x86_64__)
int fc_is_intel(void);
extern const fc_sha256_kernel fc_sha256_x16_avx512, fc_sha256_x4_avx512vl, fc_sha256_x2_sha;
#elif defined(__aarch64__)
extern const fc_sha256_kernel fc_sha256_x2_armv8;
#endif

#endif
