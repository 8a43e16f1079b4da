/* Many small blobs at once, step by step: hashed and written to files without a name, synced, named. Each step is done
   by a pool; what happened to a blob stands in its item. */
#ifndef FASTCAS_GROUP_H
#define FASTCAS_GROUP_H

#include "small.h"

enum {
    FC_GROUP_THREADS = 2,
    FC_GROUP_CHUNK = 16, /* blobs that one thread takes at once */
};

typedef struct {
    const unsigned char *data; /* memory that can't change, or NULL: */
    const char *path;          /* a file of the user's */
    size_t size;               /* of the memory; of the file, once it was read */
    int fd;                    /* the file without a name; -1: none, or not any more */
    int status;                /* 0; 1: not done, and the general way knows what to do; a negative errno or code */
    char name[2 * FC_DIGEST_MAX + 1]; /* "": not known yet */
} fc_item;

typedef struct {
    fc_hasher hasher;    /* of libcrypto */
    unsigned char *slab; /* FC_SLAB bytes, for what is read from files */
} fc_seat;

typedef struct {
    const fc_small_place *to;
    int place; /* the directory of the algorithm, open */
    fc_item *items;
    size_t count;
    int publish; /* storing publishes at once: nothing is to be synced before */
    fc_seat seat[FC_GROUP_THREADS];
} fc_group;

size_t fc_group_chunks(const fc_group *group);
/* Tasks of a pool. The first is about a chunk of items, the second about one. */
void fc_group_store(void *group, size_t chunk, int seat);
void fc_group_publish(void *group, size_t item, int seat);

/* Files that must be durable: first the disk is told of all of them, then each is synced. */
typedef struct {
    const int *fds;
    int *statuses; /* 0, before as well, or the errno, which is final: the pages count as clean from then on */
    size_t count;
} fc_files;

/* Tasks of a pool, about one file each: the first step of all of them, then the second. */
void fc_files_kick(void *files, size_t file, int seat);
void fc_files_sync(void *files, size_t file, int seat);

#endif
