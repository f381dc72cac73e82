/* SPDX-License-Identifier: MIT */
/*
 * A worker says which of its rings are empty, so that a flow can move to the kernel path (bpf/filter.bpf.c): what the kernel
 * forwards must not overtake what waits in a ring or for other fragments, or is being sent.
 */
#ifndef MCR_DRAIN_H
#define MCR_DRAIN_H

#include "bpf/abi.h"
#include "worker.h"

/* Map the workers' shared map, and close its descriptor. 0, or mmap's -errno. */
int mcr_drain_map(struct mcr_worker *worker, int fd);
void mcr_drain_unmap(struct mcr_worker *worker);

static inline struct mcr_bpf_drain *mcr_drain_of(const struct mcr_worker *worker, uint32_t capture)
{
	return &worker->drains[capture * worker->segment->header.workers + worker->segment->header.worker_id];
}

/* Frames that are in the ring of a capture, or were: to be read before one looks for frames there. */
static inline uint64_t mcr_drain_entered(const struct mcr_worker *worker, uint32_t capture)
{
	return worker->drains ? mcr_load_acquire(&mcr_drain_of(worker, capture)->entered) : 0;
}

/* There were none, all before them have been sent, and of none the worker holds fragments. */
static inline void mcr_drain_see(const struct mcr_worker *worker, uint32_t capture, uint64_t entered)
{
	if (worker->drains && mcr_drain_of(worker, capture)->seen != entered)
		mcr_store_release(&mcr_drain_of(worker, capture)->seen, entered);
}

#endif
