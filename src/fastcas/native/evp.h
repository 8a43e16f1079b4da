/* libcrypto, reached at run time: no OpenSSL header is needed to build, and the interpreter's own copy is used. */
#ifndef FASTCAS_EVP_H
#define FASTCAS_EVP_H

#include <stddef.h>

/* Finds libcrypto: in what `hashlib_path` (the file of the _hashlib module, or NULL) has loaded, else by its
   name among the loaded libraries, else by loading it. 0, or -1 where there is none. */
int fc_evp_load(const char *hashlib_path);

/* "OpenSSL 3.0.19 27 Jan 2026" */
const char *fc_evp_version(void);

/* The EVP_MD of that name, fetched for the life of the process; NULL where libcrypto has none. */
const void *fc_evp_fetch(const char *name);
int fc_evp_size(const void *md);

/* An initialised EVP_MD_CTX, or NULL. */
void *fc_evp_new(const void *md);
/* Makes a used context a new one: a fifth of the price of fc_evp_new. 0 or FC_EDIGEST. */
int fc_evp_reset(void *context);
void *fc_evp_copy(const void *context);
void fc_evp_free(void *context);

/* 0, or FC_EDIGEST with the reason in libcrypto's error queue. */
int fc_evp_update(void *context, const void *data, size_t size);
int fc_evp_final(void *context, unsigned char *digest);

/* Takes the newest reason of this thread's error queue and empties the queue. */
void fc_evp_reason(char *text, size_t size);

#endif
