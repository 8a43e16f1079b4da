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

/* Bytes that are fetched before they are needed: hardware prefetchers lose track of several streams at once. */
enum { FC_AHEAD = 512 };

#if defined(__x86_64__)
#define FC_AVX512 "avx512f,avx512vl,avx512bw"
int fc_has_avx512(void);
int fc_is_intel(void);
extern const fc_sha256_kernel fc_sha256_x16_avx512, fc_sha256_x4_avx512vl, fc_sha256_x2_sha;
#elif defined(__aarch64__)
extern const fc_sha256_kernel fc_sha256_x2_armv8;
#endif

#endif
