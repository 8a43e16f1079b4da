/* Many blobs of any size, each read, hashed and written to a file without a name, on two threads.

   Each thread has the lanes of one fc_lanes: whenever one of them is free it takes the next blob, in the order in which they
   were added, so that huge and tiny ones mix. A blob is read into the lane's slot, written from there while it is in the
   processor's cache, and hashed together with those of the other lanes. One that fits into its slot is written when its digest
   is known. When there is one large blob left, the thread that has it reads and writes, and what was the other hashes.

   The calling thread adds; the second may be at work meanwhile. What happened to a blob stands in its item. */
#ifndef FASTCAS_STORE_H
#define FASTCAS_STORE_H

#include <pthread.h>

#include "lanes.h"
#include "out.h"
#include "pool.h"
#include "ring.h"
#include "small.h"

enum {
    FC_STORE_THREADS = 2,
    FC_STORE_SLOT = 64 << 10,
    FC_EUNBEGUN = -10009, /* an item before it had failed */
};

typedef struct {
    const unsigned char *data; /* memory that can't change, or NULL: */
    const char *path;          /* a file of the user's */
    uint64_t size;             /* of the memory; of the file, once it was read */
    int fd;                    /* the file without a name; -1: none, or not any more */
    int status;                /* 0; 1: not done, and the general way knows what to do; a negative errno or code */
    int reading;               /* it was the source that failed */
    char name[2 * FC_DIGEST_MAX + 1]; /* the digest in hexadecimal digits; "": not known yet */
    int summed;                       /* `checksum` is that of what was stored: only where it didn't fit into a slot */
    unsigned char checksum[FC_DIGEST_MAX];
} fc_item;

/* What one lane is busy with. */
typedef struct {
    fc_item *item; /* NULL: nothing */
    int source;    /* the open file; -1: none, it is memory */
    uint64_t offset;
    fc_out out;
    const unsigned char *held; /* all of it, in one piece, not written yet */
    void *checksum;            /* the lane's state */
} fc_stream;

typedef struct {
    fc_lanes lanes;
    fc_stream stream[FC_LANES_MAX];
    void *checksum[FC_LANES_MAX]; /* states of store->checksum */
    int active;          /* lanes that are busy */
    unsigned char *slab; /* FC_SLAB bytes, the caller's */
    int split;           /* lane `last` alone is left, and hashed by a thread of `ring` */
    int last;
    fc_lane ring;
} fc_seat;

typedef struct {
    /* the caller's */
    const fc_small_place *to; /* `sync`: nothing gets its name here, because it has to be synced before */
    int place;                /* the directory of the algorithm, open */
    fc_item *items;
    const fc_sha256_kernel *kernel; /* as for fc_lanes_open */
    const fc_algorithm *algorithm;
    const fc_algorithm *checksum; /* NULL: none */
    /* read by the caller */
    uint64_t taken; /* bytes so far, of all blobs */
    size_t failed;  /* the first item that failed; SIZE_MAX: none */
    /* the engine's */
    size_t count, next;
    int closed; /* nothing will be added */
    fc_pool pool;
    pthread_mutex_t mutex;
    pthread_cond_t added;
    fc_seat seat[FC_STORE_THREADS];
} fc_store;

/* All zeros but the caller's fields and slabs. 0 or FC_EDIGEST; in any case to be closed. */
int fc_store_open(fc_store *store);
/* The item after the last is complete, and may be taken. */
void fc_store_add(fc_store *store);
/* From now on the second thread is at work, where one can be had. */
void fc_store_start(fc_store *store);
/* Takes part for a tenth of a second, nothing being added any more. 1: call again; 0: every item has its status; FC_EFORKED. */
int fc_store_run(fc_store *store);
/* Ends the thread and drops what is half done, in any state. The files of the items stay open. */
void fc_store_close(fc_store *store);

/* Gives the item's file its name and closes it, or only closes it where the item has failed. */
void fc_store_publish(fc_item *item, int place);

#endif
