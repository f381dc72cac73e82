// SPDX-License-Identifier: MIT
/*
 * Apply commands, move a batch from each capture, sleep only when nothing waits.
 *
 * A batch goes one way: gather, plan, send, commit. Captures are read without a system call. The sends of a batch by one
 * interface enter the kernel together, and end there and then (send.h).
 */
#include "loop.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "clock.h"
#include "commit.h"
#include "control.h"
#include "drain.h"
#include "engine.h"
#include "gather.h"
#include "plan.h"
#include "send.h"

#define MAX_DELAY_NS  1000000
#define DELAY_SLOT_NS 500 /* per slot of a ring: at 1,000,000 packets per second the ring is half full then */

/* Read the error, so that it is reported once and the next poll waits again. */
static void on_capture_error(struct mcr_worker *worker, uint32_t slot)
{
	int error = 0;
	socklen_t size = sizeof(error);
	enum mcr_level level;

	getsockopt(worker->captures[slot].fd, SOL_SOCKET, SO_ERROR, &error, &size);
	/* That an interface is down is logged by mcrd: once, and not by every worker. */
	level = error == ENETDOWN ? MCR_LEVEL_DEBUG : MCR_LEVEL_WARNING;
	if (error)
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, level, MCR_LOG_CAPTURE_ERROR, slot, (uint64_t)error,
			       0);
}

void mcr_loop_captured(struct mcr_worker *worker, uint32_t slot, int events)
{
	worker->captures[slot].woken = events & POLLIN;
	if (events & POLLERR)
		on_capture_error(worker, slot);
}

/* A capture has nothing to read. */
static void rest(struct mcr_capture *capture)
{
	/* Twice woken for nothing: only copies without a slot are left to read. */
	if (capture->woken && capture->polled_in_vain)
		mcr_oversize_flush(capture);
	capture->polled_in_vain = capture->woken;
	capture->woken = false;
}

uint32_t mcr_loop_move(struct mcr_worker *worker, uint32_t slot)
{
	struct mcr_capture *capture = &worker->captures[slot];
	struct mcr_batch *batch = &worker->batch;
	uint64_t entered = mcr_drain_entered(worker, slot);

	mcr_gather(worker, slot);
	if (!batch->slots) {
		if (!worker->reassembly.fragments[slot]) /* those are to leave as a datagram, or to be given up */
			mcr_drain_see(worker, slot, entered);
		rest(capture);
		if (batch->add.recv) /* fragments that are lost */
			mcr_commit(worker);
		return 0;
	}
	capture->woken = capture->polled_in_vain = false;
	mcr_commit_begin(worker);
	if (batch->in_doubt) {
		mcr_batch_give_up(batch, &worker->rules);
	} else {
		mcr_plan_start(batch);
		mcr_send_all(worker);
	}
	mcr_commit(worker);
	return batch->slots;
}

static int detach(struct mcr_worker *worker, uint32_t slot)
{
	int ret = worker->engine->forget(worker, slot);

	if (!ret)
		mcr_control_detach(worker, slot);
	return ret;
}

/* Count the fragments of a capture whose datagrams are not whole, as nothing more will come of them. */
static void give_up_fragments(struct mcr_worker *worker, uint32_t slot)
{
	mcr_reassembly_give_up(&worker->reassembly, slot);
	mcr_loop_move(worker, slot);
}

/* One batch from every capture, so that a busy one can't starve the others. Packets taken, or -errno. */
static int turn(struct mcr_worker *worker)
{
	int total = 0;

	if (worker->reassembly.waiting)
		mcr_reassembly_expire(&worker->reassembly, mcr_clock_ns(CLOCK_MONOTONIC));
	for (uint32_t i = worker->active_count; i-- > 0;) {
		uint32_t slot = worker->active[i];
		uint32_t taken = mcr_loop_move(worker, slot);

		if (!taken && worker->captures[slot].leaving) {
			int ret;

			give_up_fragments(worker, slot);
			ret = detach(worker, slot);
			if (ret)
				return ret;
			taken = 1; /* commands may have waited for it */
		}
		total += (int)taken;
	}
	return total;
}

/* The longest batching delay that is allowed, and in which no ring can run full. */
static uint32_t batching_delay_ns(const struct mcr_worker *worker)
{
	uint32_t hold_ns = worker->segment->header.hold_ns, longest = hold_ns < MAX_DELAY_NS ? hold_ns : MAX_DELAY_NS;

	for (uint32_t i = 0; i < worker->active_count; i++) {
		uint32_t slots = worker->captures[worker->active[i]].frame_count;

		if (slots < longest / DELAY_SLOT_NS)
			longest = slots * DELAY_SLOT_NS;
	}
	return longest;
}

/* Let packets gather if that saves CPU and is allowed, after a turn that took so many. */
static void delay_batch(struct mcr_worker *worker, uint32_t taken)
{
	uint64_t now = mcr_clock_ns(CLOCK_MONOTONIC);
	bool pays = mcr_pace_step(&worker->pace, taken, now);
	struct timespec time;

	worker->refusals.epoch = (uint32_t)(now / MCR_SECOND_NS) + 1;
	if (!pays || !worker->segment->header.hold_ns || worker->draining)
		return;
	time = (struct timespec){ .tv_nsec = batching_delay_ns(worker) };
	clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

/* Nobody is left to tell more: move what has arrived, which is a ring of each capture at most. */
static void drain_abandoned(struct mcr_worker *worker)
{
	for (uint32_t i = 0; i < worker->active_count && worker->generation; i++) {
		uint32_t slot = worker->active[i], left = worker->captures[slot].frame_count, taken;

		do {
			taken = mcr_loop_move(worker, slot);
			left -= taken < left ? taken : left;
		} while (taken && left);
	}
}

/* Nothing more will come. */
static void end(struct mcr_worker *worker)
{
	if (worker->abandoned)
		drain_abandoned(worker);
	for (uint32_t i = 0; i < worker->active_count && worker->generation; i++)
		give_up_fragments(worker, worker->active[i]);
}

int mcr_loop_run(struct mcr_worker *worker)
{
	int ret, taken;
	bool drained;

	for (;;) {
		ret = mcr_control_apply(worker);
		if (ret)
			return ret;
		/* Without rules every packet would be no match; let them wait for the first generation. */
		taken = worker->generation ? turn(worker) : 0;
		if (taken < 0)
			return taken;
		drained = !taken && worker->draining;
		if (drained) {
			mcr_log_flush_at(&worker->log, UINT64_MAX);
			mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_DEBUG, MCR_LOG_DRAINED, 0, 0, 0);
		}
		mcr_log_flush(&worker->log);
		mcr_control_report(worker);
		if (worker->abandoned || drained) {
			end(worker);
			return worker->abandoned ? -EPIPE : 0;
		}
		delay_batch(worker, (uint32_t)taken);
		/* While records are held back, wake to write them; while fragments wait for others, to give them up. */
		ret = taken ? worker->engine->look(worker)
			    : worker->engine->wait(worker, worker->log.pending || worker->reassembly.waiting);
		if (ret)
			return ret;
	}
}
