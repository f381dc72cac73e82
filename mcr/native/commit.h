/* SPDX-License-Identifier: MIT */
/* The end of a batch: its outcomes become counters, and its slots go back to the kernel. */
#ifndef MCR_COMMIT_H
#define MCR_COMMIT_H

#include "worker.h"

/* A successor must not send what is in hand: it leaves from here on. */
void mcr_commit_begin(struct mcr_worker *worker);

/* Everything in hand has its outcome: count, move the cursor, give the slots back. */
void mcr_commit(struct mcr_worker *worker);

#endif
