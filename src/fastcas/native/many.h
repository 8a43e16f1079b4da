/* The digests of many files and pieces of memory, several at once on each of several threads.

   Each thread has the lanes of one fc_lanes, and takes the next item whenever one of them is free, so that long and short
   items mix and no thread waits for another before there is nothing left. The calling thread is one of them.

   Files are read from their beginning to their end, FC_MANY_SLOT bytes of each lane at a time. What of a file wasn't in the
   page cache before doesn't stay there either. */
#ifndef FASTCAS_MANY_H
#define FASTCAS_MANY_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lanes.h"
#include "stream.h"

enum {
    FC_MANY_SLOT = 64 << 10,
    FC_MANY_SLOT_ALONE = 1 << 20, /* of a single lane: reads are quicker so */
    FC_MANY_THREADS = 64,
    FC_ESKIPPED = -10007, /* another item failed first */
    FC_EKIND = -10008,    /* no regular file */
};

typedef enum { FC_MEMORY, FC_FILE, FC_NAME } fc_many_kind;

typedef struct {
    fc_many_kind kind;
    int fd;                    /* FC_FILE: a descriptor, whose offset stays; FC_NAME: the directory of `name` */
    const char *name;          /* opened as with fc_open_regular */
    const unsigned char *data; /* FC_MEMORY: `size` bytes */
    uint64_t size;             /* of a file: found when it was begun */
    uint64_t found;            /* bytes that were hashed */
    int status;                /* 0, a negative errno, FC_EKIND, FC_EDIGEST, FC_ESKIPPED; or FC_ESHORT or FC_ELONG,
                                  when a file was shortened or extended meanwhile */
    unsigned char digest[FC_DIGEST_MAX];
    unsigned char checksum[FC_DIGEST_MAX]; /* of a file, where fc_many has `checksum` */
} fc_many_item;

typedef struct fc_many_worker fc_many_worker;

typedef struct {
    /* the caller's */
    fc_many_item *items;
    size_t count;
    const fc_sha256_kernel *kernel; /* as for fc_lanes_open */
    const fc_algorithm *algorithm;
    const fc_algorithm *checksum; /* a second digest of each file, from the same reads; NULL: none */
    int threads;
    int stop_at_failure; /* what hasn't begun when an item fails becomes FC_ESKIPPED */
    /* read by the caller */
    uint64_t hashed; /* bytes so far, of all items */
    size_t failed;   /* the item that stopped the others; `count` if none */
    /* the engine's */
    size_t next;
    int stop, working;
    int started; /* threads besides the caller */
    pid_t owner;
    fc_many_worker *workers;
    void *memory;
    size_t memory_size, slot;
    pthread_mutex_t mutex;
    pthread_cond_t finished;
} fc_many;

/* 0, -ENOMEM or FC_EDIGEST; in any case to be closed. Where no more threads can be had, fewer do it. */
int fc_many_open(fc_many *many);
/* 1: call again, for a tenth of a second went by; 0: every item has its status; FC_EFORKED. */
int fc_many_run(fc_many *many);
/* Ends the threads, in any state. */
void fc_many_close(fc_many *many);

#endif
