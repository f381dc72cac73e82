/* SPDX-License-Identifier: MIT */
/* How a worker's loop waits: on io_uring, or where that is forbidden on poll. */
#ifndef MCR_ENGINE_H
#define MCR_ENGINE_H

#include <stdint.h>

#include "worker.h"

struct mcr_engine {
	uint32_t id; /* enum mcr_engine_id */

	int (*open)(struct mcr_worker *worker);
	void (*close)(struct mcr_worker *worker);

	/* Collect what has happened meanwhile, without waiting. 0 or -errno. */
	int (*look)(struct mcr_worker *worker);

	/* Wait until something happens; at most a second if `briefly`. 0 or -errno. */
	int (*wait)(struct mcr_worker *worker, bool briefly);

	/* A capture is about to be detached. 0 or -errno. */
	int (*forget)(struct mcr_worker *worker, uint32_t slot);
};

extern const struct mcr_engine mcr_uring_engine;
extern const struct mcr_engine mcr_poll_engine;

/* Whether this process may use io_uring at all: 0 or -errno. */
int mcr_uring_probe(void);

#endif
