/* Open files that must be durable: first the disk is told of all of them, then each is synced, by as many threads as a pool
   has. */
#ifndef FASTCAS_FILES_H
#define FASTCAS_FILES_H

#include <stddef.h>

/* What a journal takes into one commit, and a disk into one flush, is what is asked for at the same time. */
enum { FC_KICK_THREADS = 2, FC_SYNC_THREADS = 64 };

typedef struct {
    const int *fds;
    int *statuses; /* 0, before as well, or the errno, which is final: the pages count as clean from then on */
    size_t count;
    size_t next; /* 0 before each of the two */
} fc_files;

/* Steps of a pool, about one file each: first the one for all of them, then the other. */
int fc_files_kick(void *files, int seat);
int fc_files_sync(void *files, int seat);

#endif
