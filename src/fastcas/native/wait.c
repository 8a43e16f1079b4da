#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <time.h>

#include "ring.h"

enum { PATIENCE_MS = 100 };

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t fc_deadline(void)
{
    return now() + (uint64_t)PATIENCE_MS * 1000000u;
}

int fc_past(uint64_t deadline)
{
    return now() >= deadline;
}

int fc_wait(int fd, short events)
{
    struct pollfd ready = {.fd = fd, .events = events};
    int n = poll(&ready, 1, PATIENCE_MS);
    return n < 0 && errno != EINTR ? -errno : n > 0;
}
