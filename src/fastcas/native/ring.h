/* The beat under sink and reader: memory in slots, hashed here or by the helper thread. See stream.h for the codes. */
#ifndef FASTCAS_RING_H
#define FASTCAS_RING_H

#include "stream.h"

void fc_lane_init(fc_lane *lane, fc_hasher hasher, unsigned char *slab, int64_t expected);
/* From now on a helper thread hashes, if one is allowed, a processor is left for it and it can be had: else ask again
   with the next slot. `expected` < 0: the size is unknown. Between slots only: the size of a slot may change. */
void fc_lane_thread(fc_lane *lane, int64_t expected);
/* The next slot, and the wait until its former content is hashed. Wait before each fc_lane_hash, of whatever memory. */
unsigned char *fc_lane_slot(const fc_lane *lane);
int fc_lane_acquire(fc_lane *lane);
/* Hashes `data`, or queues it: then it must stay as it is until fc_lane_acquire has given FC_SLOTS places more, or until
   fc_lane_final or fc_lane_close. */
int fc_lane_hash(fc_lane *lane, const void *data, size_t size);
int fc_lane_final(fc_lane *lane, unsigned char *digest);
/* Ends the thread after what is queued; harmless when there is none. */
void fc_lane_close(fc_lane *lane);

/* +1 where a thread begins to work on a stream, -1 where it ends or waits for others: this decides about helpers. */
void fc_work(int change);

/* Starts a thread that meets no signals; `elsewhere`: not on the processor where the caller is. 0 or a negative errno. */
int fc_thread(pthread_t *thread, size_t stack, int elsewhere, void *(*function)(void *), void *argument);

/* When a loop should look for signals: a tenth of a second after `fc_deadline()`. */
uint64_t fc_deadline(void);
int fc_past(uint64_t deadline);
/* Waits a tenth of a second at most for `events`. 1: ready; 0: not yet (or a signal came). */
int fc_wait(int fd, short events);

#endif
