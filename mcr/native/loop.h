/* SPDX-License-Identifier: MIT */
/* The worker's loop, whatever engine it runs on. */
#ifndef MCR_LOOP_H
#define MCR_LOOP_H

#include "worker.h"

/* 0 when told to stop and drained, -EPIPE when the supervisor is gone, or a failed step's -errno. */
int mcr_loop_run(struct mcr_worker *worker);

/* Move one batch from a capture. The number of frames taken. */
uint32_t mcr_loop_move(struct mcr_worker *worker, uint32_t slot);

/* For engines: a capture's socket has these poll(2) events. */
void mcr_loop_captured(struct mcr_worker *worker, uint32_t slot, int events);

#endif
