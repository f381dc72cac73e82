/* SPDX-License-Identifier: MIT */
/* One batch on its way through a worker: from the capture ring to planned sends, and from outcomes to counters. */
#ifndef MCR_GATHER_H
#define MCR_GATHER_H

#include "worker.h"

/*
 * Take a batch of frames from a capture, match them, start the plan of their sends.
 * The number of slots taken; they are given back by mcr_forward_commit().
 */
uint32_t mcr_forward_gather(struct mcr_worker *worker, uint32_t capture);

/* One send has ended: `result` is the bytes sent, or -errno. Log and count what became of its datagrams. */
void mcr_forward_sent(struct mcr_worker *worker, const struct mcr_send *send, int result);

/* A train was refused with this -errno, and its datagrams leave one by one: its output gets no more trains for now. */
void mcr_forward_train_refused(struct mcr_worker *worker, const struct mcr_send *send, int result);

/* All sends of the batch have ended: count, move the cursor, give the slots back. */
void mcr_forward_commit(struct mcr_worker *worker, uint32_t capture, uint32_t slots);

#endif
