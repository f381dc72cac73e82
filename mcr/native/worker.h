/* SPDX-License-Identifier: MIT */
/* A worker: everything it holds, and its one entry point. */
#ifndef MCR_WORKER_H
#define MCR_WORKER_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#include "batch.h"
#include "capture.h"
#include "channel.h"
#include "egress.h"
#include "log.h"
#include "own.h"
#include "pace.h"
#include "reassembly.h"
#include "refused.h"
#include "ring.h"
#include "rules.h"
#include "shm_abi.h"

struct mcr_bpf_drain;
struct mcr_engine;

struct mcr_worker {
	struct mcr_segment *segment;
	struct mcr_bpf_drain *drains; /* of all workers, by capture; NULL: there is no kernel path */
	struct mcr_channel channel;   /* its hang-up means that the supervisor is gone */
	int wake_fd;                  /* eventfd, read: the rule ring has something */
	int event_fd;                 /* eventfd, written: the event ring has something */
	bool confined;                /* may open nothing, once it is set up */

	struct mcr_ring_end commands;
	struct mcr_ring_end events;
	struct mcr_log log;

	struct mcr_capture captures[MCR_MAX_INTERFACES];
	uint32_t active[MCR_MAX_INTERFACES]; /* the attached ones */
	uint32_t active_count;
	struct mcr_egress egress[MCR_MAX_EGRESS];
	struct mcr_refusals refusals;
	struct mcr_rules rules;
	struct mcr_own own;
	struct mcr_refused refused;

	struct mcr_reassembly reassembly;
	struct mcr_batch batch;

	uint64_t generation; /* newest applied; packets wait until there is one */
	uint64_t acknowledged;
	uint64_t sampled_at; /* packets received at the last sample */
	bool draining;       /* stop once nothing waits */
	bool abandoned;      /* the supervisor is gone */

	const struct mcr_engine *engine;
	struct mcr_pace pace;
	struct io_uring ring;
	uint64_t wake_count;    /* what a read of wake_fd stores */
	uint32_t looks;         /* since the kernel was last asked for completions */
	bool no_standing_polls; /* this kernel has none (before 5.13) */
};

/*
 * Run a worker until it is told to stop. Takes over the descriptors. `drain_fd`: see drain.h; -1: there is no kernel
 * path. `confined`: see mcr_confine; it holds for the rest of the process's life.
 * 0 after an orderly stop, -EPIPE when the supervisor is gone, another -errno when the header's step failed.
 */
int mcr_worker_run(int segment_fd, int channel_fd, int wake_fd, int event_fd, int drain_fd, bool confined);

#endif
