#define _GNU_SOURCE
#include "xxh.h"

#include <dlfcn.h>
#include <stdint.h>

#include "stream.h"

typedef struct {
    uint64_t low, high;
} xxh_value;

/* Only what is called, as it is since libxxhash 0.8.0, the first with a stable XXH3. */
static struct {
    void *(*create)(void);
    int (*free)(void *state);
    void (*copy)(void *to, const void *from);
    int (*reset)(void *state);
    int (*update)(void *state, const void *data, size_t size);
    xxh_value (*digest)(const void *state);
} xxh;

static int bind_symbols(void *library)
{
    *(void **)&xxh.create = dlsym(library, "XXH3_createState");
    *(void **)&xxh.free = dlsym(library, "XXH3_freeState");
    *(void **)&xxh.copy = dlsym(library, "XXH3_copyState");
    *(void **)&xxh.reset = dlsym(library, "XXH3_128bits_reset");
    /* The one that looks at the CPU, where it was built in: AVX2 or AVX-512 instead of what every CPU has. */
    *(void **)&xxh.update = dlsym(library, "XXH3_128bits_update_dispatch");
    if (!xxh.update)
        *(void **)&xxh.update = dlsym(library, "XXH3_128bits_update");
    *(void **)&xxh.digest = dlsym(library, "XXH3_128bits_digest");
    return xxh.create && xxh.free && xxh.copy && xxh.reset && xxh.update && xxh.digest;
}

static void *begin(const fc_algorithm *algorithm)
{
    void *state = xxh.create();

    (void)algorithm;
    if (state && xxh.reset(state)) {
        xxh.free(state);
        state = NULL;
    }
    return state;
}

static void *copy(const void *from)
{
    void *state = xxh.create();

    if (state)
        xxh.copy(state, from);
    return state;
}

static void end(void *state)
{
    if (state)
        xxh.free(state);
}

static int reset(void *state)
{
    return xxh.reset(state) ? FC_EDIGEST : 0;
}

static int update(void *state, const void *data, size_t size)
{
    return xxh.update(state, data, size) ? FC_EDIGEST : 0;
}

/* In the canonical order of bytes, as xxhsum prints it. */
static int final(void *state, unsigned char *digest)
{
    xxh_value value = xxh.digest(state);

    for (int i = 0; i < 8; i++) {
        digest[i] = (unsigned char)(value.high >> (56 - 8 * i));
        digest[8 + i] = (unsigned char)(value.low >> (56 - 8 * i));
    }
    return 0;
}

const fc_algorithm *fc_xxh_load(const char *module_path)
{
    static const fc_algorithm algorithm = {
        .digest_size = 16,
        .begin = begin,
        .copy = copy,
        .end = end,
        .reset = reset,
        .update = update,
        .final = final,
    };
    void *library = module_path ? dlopen(module_path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD) : NULL;

    if (library && bind_symbols(library))
        return &algorithm;
    library = dlopen("libxxhash.so.0", RTLD_NOW | RTLD_LOCAL);
    return library && bind_symbols(library) ? &algorithm : NULL;
}
