/* SPDX-License-Identifier: MIT */
/* The worker's loop on io_uring. */
#ifndef MCR_URING_H
#define MCR_URING_H

#include "worker.h"

int mcr_uring_open(struct mcr_worker *worker);

/* Whether this process may use io_uring at all: 0 or -errno. */
int mcr_uring_probe(void);

/* 0 when told to stop and drained, -EPIPE when the supervisor is gone, or a failed step's -errno. */
int mcr_uring_run(struct mcr_worker *worker);

void mcr_uring_close(struct mcr_worker *worker);

#endif
