#define _GNU_SOURCE
#include "evp.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "stream.h"

/* Only what is called, with the types of OpenSSL 1.1.1 and 3.x, which agree on these. */
static struct {
    const void *(*md_fetch)(void *library, const char *name, const char *properties);
    const void *(*md_by_name)(const char *name);
    int (*md_size)(const void *md);
    void *(*ctx_new)(void);
    void (*ctx_free)(void *ctx);
    int (*ctx_copy)(void *to, const void *from);
    int (*init)(void *ctx, const void *md, void *engine);
    int (*update)(void *ctx, const void *data, size_t size);
    int (*final)(void *ctx, unsigned char *digest, unsigned int *size);
    const char *(*version)(int which);
    unsigned long (*last_error)(void);
    void (*error_string)(unsigned long code, char *text, size_t size);
    void (*clear_errors)(void);
} evp;

static void *symbol(void *library, const char *name, const char *older)
{
    void *found = dlsym(library, name);
    return found || !older ? found : dlsym(library, older);
}

static int loaded;

static int bind_symbols(void *library)
{
    *(void **)&evp.md_fetch = symbol(library, "EVP_MD_fetch", NULL);
    *(void **)&evp.md_by_name = symbol(library, "EVP_get_digestbyname", NULL);
    *(void **)&evp.md_size = symbol(library, "EVP_MD_get_size", "EVP_MD_size");
    *(void **)&evp.ctx_new = symbol(library, "EVP_MD_CTX_new", NULL);
    *(void **)&evp.ctx_free = symbol(library, "EVP_MD_CTX_free", NULL);
    *(void **)&evp.ctx_copy = symbol(library, "EVP_MD_CTX_copy_ex", NULL);
    *(void **)&evp.init = symbol(library, "EVP_DigestInit_ex", NULL);
    *(void **)&evp.update = symbol(library, "EVP_DigestUpdate", NULL);
    *(void **)&evp.final = symbol(library, "EVP_DigestFinal_ex", NULL);
    *(void **)&evp.version = symbol(library, "OpenSSL_version", NULL);
    *(void **)&evp.last_error = symbol(library, "ERR_peek_last_error", NULL);
    *(void **)&evp.error_string = symbol(library, "ERR_error_string_n", NULL);
    *(void **)&evp.clear_errors = symbol(library, "ERR_clear_error", NULL);
    loaded = (evp.md_fetch || evp.md_by_name) && evp.md_size && evp.ctx_new && evp.ctx_free && evp.ctx_copy && evp.init &&
           evp.update && evp.final && evp.version && evp.last_error && evp.error_string && evp.clear_errors;
    return loaded;
}

int fc_evp_load(const char *hashlib_path)
{
    static const char *const names[] = {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"};
    static const int modes[] = {RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD, RTLD_NOW | RTLD_LOCAL};
    void *library;

    /* dlsym looks through a module and what it depends on: whatever name the module's libcrypto goes by
       (a wheel's mangled copy, one linked into the interpreter itself), this finds that one. */
    library = dlopen(hashlib_path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (library && bind_symbols(library))
        return 0;
    for (size_t mode = 0; mode < sizeof modes / sizeof *modes; mode++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            library = dlopen(names[i], modes[mode]);
            if (library && bind_symbols(library))
                return 0;
        }
    return -1;
}

const char *fc_evp_version(void)
{
    return evp.version(0);
}

static void *begin(const fc_algorithm *algorithm)
{
    void *context = evp.ctx_new();
    if (context && evp.init(context, algorithm->md, NULL) != 1) {
        evp.ctx_free(context);
        context = NULL;
    }
    return context;
}

int fc_evp_reset(void *context)
{
    return evp.init(context, NULL, NULL) == 1 ? 0 : FC_EDIGEST;
}

static void *copy(const void *from)
{
    void *context = evp.ctx_new();
    if (context && evp.ctx_copy(context, from) != 1) {
        evp.ctx_free(context);
        context = NULL;
    }
    return context;
}

static void end(void *context)
{
    if (context)
        evp.ctx_free(context);
}

static int update(void *context, const void *data, size_t size)
{
    return evp.update(context, data, size) == 1 ? 0 : FC_EDIGEST;
}

static int final(void *context, unsigned char *digest)
{
    return evp.final(context, digest, NULL) == 1 ? 0 : FC_EDIGEST;
}

const fc_algorithm *fc_evp_fetch(const char *name)
{
    const void *md = evp.md_fetch ? evp.md_fetch(NULL, name, NULL) : evp.md_by_name(name);
    fc_algorithm *algorithm = md ? malloc(sizeof *algorithm) : NULL;

    if (algorithm)
        *algorithm = (fc_algorithm){
            .digest_size = evp.md_size(md),
            .md = md,
            .begin = begin,
            .copy = copy,
            .end = end,
            .reset = fc_evp_reset,
            .update = update,
            .final = final,
        };
    return algorithm;
}

void fc_evp_reason(char *text, size_t size)
{
    unsigned long code = loaded ? evp.last_error() : 0;
    if (!code) {
        snprintf(text, size, "no reason given");
        return;
    }
    evp.error_string(code, text, size);
    evp.clear_errors();
}
