/* Open files that must be durable: first the disk is told of all of them, then each is synced, by as many threads as a pool
   has. */
#ifndef FASTCAS_FILES_H
#define FASTCAS_FILES_H

#include <stddef.h>

typedef struct {
    const int *fds;
    int *statuses; /* 0 or a negative errno, which is final: the pages count as clean from then on */
    size_t count;
    size_t next;
} fc_files;

void fc_files_kick(fc_files *files);
/* A step of a pool: syncs one. */
int fc_files_sync(void *files, int seat);

#endif
