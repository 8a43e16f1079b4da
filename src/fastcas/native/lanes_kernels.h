/* The kernels there are, for the dispatch in lanes.c alone. */
#ifndef FASTCAS_LANES_KERNELS_H
#define FASTCAS_LANES_KERNELS_H

#include "lanes.h"

#if defined(__x86_64__)
extern const fc_sha256_kernel fc_sha256_x4_avx512vl, fc_sha256_x2_sha;
#elif defined(__aarch64__)
extern const fc_sha256_kernel fc_sha256_x2_armv8;
#endif

#endif
