/* SPDX-License-Identifier: MIT */
/* Frames of a capture ring to the batch in hand: what each is, which rule takes it, and what is counted instead. */
#ifndef MCR_GATHER_H
#define MCR_GATHER_H

#include "worker.h"

/* Begin a batch with what waits in a capture's ring. The frames' slots are given back by mcr_commit(). */
void mcr_gather(struct mcr_worker *worker, uint32_t capture);

#endif
