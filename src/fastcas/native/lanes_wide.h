/* SHA-256 of as many streams as a vector has words of 32 bits: of each word of the computation a vector has that of every
   stream. A template: included once for each WIDTH, the bits of a vector. */
#define PASTE(a, b, c) a##b##c
#define EXPAND(a, b, c) PASTE(a, b, c)
#define OP(name) EXPAND(_mm, WIDTH, _##name)
#define OF(name) EXPAND(name, _, WIDTH)
#define LOAD EXPAND(_mm, WIDTH, EXPAND(_loadu_si, WIDTH, ))
#define STORE EXPAND(_mm, WIDTH, EXPAND(_storeu_si, WIDTH, ))
#define V EXPAND(__m, WIDTH, i)
#define STREAMS (WIDTH / 32)

#define XOR3 0x96 /* truth tables of vpternlog */
#define CHOOSE 0xCA
#define MAJORITY 0xE8

/* Macros, since the counts must be literals for some compilers. */
#define SIGMA(x, a, b, third) OP(ternarylogic_epi32)(OP(ror_epi32)(x, a), OP(ror_epi32)(x, b), third, XOR3)
#define BIG_SIGMA(x, a, b, c) SIGMA(x, a, b, OP(ror_epi32)(x, c))
#define SMALL_SIGMA(x, a, b, c) SIGMA(x, a, b, OP(srli_epi32)(x, c))

/* Round t. Word i of the state, a to h, is in s[(i - t) % 8], so that none has to move. */
TEMPLATE void OF(round)(V *s, const int t, V word)
{
    V *const a = &s[(8 - t % 8) % 8], *const b = &s[(9 - t % 8) % 8], *const c = &s[(10 - t % 8) % 8];
    V *const d = &s[(11 - t % 8) % 8], *const e = &s[(12 - t % 8) % 8], *const f = &s[(13 - t % 8) % 8];
    V *const g = &s[(14 - t % 8) % 8], *const h = &s[(15 - t % 8) % 8];
    V sum = OP(add_epi32)(BIG_SIGMA(*e, 6, 11, 25), OP(ternarylogic_epi32)(*e, *f, *g, CHOOSE));

    sum = OP(add_epi32)(OP(add_epi32)(*h, word), sum);
    *d = OP(add_epi32)(*d, sum);
    *h = OP(add_epi32)(BIG_SIGMA(*a, 2, 13, 22), OP(ternarylogic_epi32)(*a, *b, *c, MAJORITY));
    *h = OP(add_epi32)(*h, sum);
}

/* Word t+16 of the message schedule, in place of word t. */
TEMPLATE void OF(next_word)(V *w, const int t)
{
    const V early = w[(t + 1) % 16], late = w[(t + 14) % 16];
    const V sum = OP(add_epi32)(SMALL_SIGMA(early, 7, 18, 3), SMALL_SIGMA(late, 17, 19, 10));

    w[t] = OP(add_epi32)(OP(add_epi32)(w[t], w[(t + 9) % 16]), sum);
}

TEMPLATE V OF(constant)(int t)
{
    return OP(set1_epi32)((int)fc_sha256_constants[t]);
}

/* `lanes` of `STREAMS`; the others do what the first does, and it is forgotten. */
static __attribute__((target(FC_AVX512))) void OF(hash)(uint32_t *const state[], const unsigned char *const data[],
                                                          size_t blocks, int lanes)
{
    const V big_endian = OF(repeat)(_mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
    const unsigned char *from[STREAMS];
    uint32_t words[8][STREAMS];
    V s[8], before[8], w[16];

    for (int lane = 0; lane < STREAMS; lane++) {
        const int like = lane < lanes ? lane : 0;
        from[lane] = data[like];
        for (int i = 0; i < 8; i++)
            words[i][lane] = state[like][i];
    }
    for (int i = 0; i < 8; i++)
        s[i] = LOAD((const void *)words[i]);
    for (size_t at = 0; at < blocks * FC_SHA256_BLOCK; at += FC_SHA256_BLOCK) {
        OF(load_block)(w, from, at);
        FC_UNROLL for (int t = 0; t < 16; t++)
            w[t] = OP(shuffle_epi8)(w[t], big_endian);
        FC_UNROLL for (int i = 0; i < 8; i++)
            before[i] = s[i];
        for (int first = 0; first < 48; first += 16)
            FC_UNROLL for (int t = 0; t < 16; t++) {
                OF(round)(s, t, OP(add_epi32)(w[t], OF(constant)(first + t)));
                OF(next_word)(w, t);
            }
        FC_UNROLL for (int t = 0; t < 16; t++)
            OF(round)(s, t, OP(add_epi32)(w[t], OF(constant)(48 + t)));
        FC_UNROLL for (int i = 0; i < 8; i++)
            s[i] = OP(add_epi32)(s[i], before[i]);
    }
    for (int i = 0; i < 8; i++)
        STORE((void *)words[i], s[i]);
    for (int lane = 0; lane < lanes; lane++)
        for (int i = 0; i < 8; i++)
            state[lane][i] = words[i][lane];
}

#undef PASTE
#undef EXPAND
#undef OP
#undef OF
#undef LOAD
#undef STORE
#undef V
#undef STREAMS
#undef XOR3
#undef CHOOSE
#undef MAJORITY
#undef SIGMA
#undef BIG_SIGMA
#undef SMALL_SIGMA
