/* libcrypto, reached at run time: no OpenSSL header is needed to build, and the interpreter's own copy is used. */
#ifndef FASTCAS_EVP_H
#define FASTCAS_EVP_H

#include <stddef.h>

#include "algorithm.h"

/* Finds libcrypto: in what `hashlib_path` (the file of the _hashlib module, or NULL) has loaded, else by its
   name among the loaded libraries, else by loading it. 0, or -1 where there is none. */
int fc_evp_load(const char *hashlib_path);

/* "OpenSSL 3.0.19 27 Jan 2026" */
const char *fc_evp_version(void);

/* The algorithm of that name, for the life of the process; NULL where libcrypto has none. */
const fc_algorithm *fc_evp_fetch(const char *name);

/* Makes a used state of libcrypto a new one. 0 or FC_EDIGEST, with the reason in libcrypto's error queue. */
int fc_evp_reset(void *context);

/* Takes the newest reason of this thread's error queue and empties the queue. */
void fc_evp_reason(char *text, size_t size);

#endif
