// SPDX-License-Identifier: MIT
/*
 * Captures are polled while the worker sleeps. A poll that stays saves a request each time. At high rates, where the worker
 * hardly sleeps, it would cost the interrupt side a wake-up per packet, so there each poll is for one sleep only.
 */
#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loop.h"

#define SQ_ENTRIES 256 /* a poll for each capture, and the others */
#define CQ_ENTRIES (4 * SQ_ENTRIES)

#define LOOKS 16 /* turns between two looks for completions, while packets keep coming */

/* user_data of a request: one of these, and a capture's slot and serial, as a poll may end after its slot has got another. */
enum kind { KIND_CAPTURE, KIND_WAKE, KIND_LIFELINE, KIND_CANCEL };

#define KIND_SHIFT 48
#define SLOT_SHIFT 32

static uint64_t encode(enum kind kind, uint32_t slot, uint32_t serial)
{
	return (uint64_t)kind << KIND_SHIFT | (uint64_t)slot << SLOT_SHIFT | serial;
}

/*
 * Newest flags first; an older kernel refuses those it doesn't know. With the last ones it interrupts the worker for
 * completions, with the others it says in shared memory that there are some (TASKRUN_FLAG).
 */
static const unsigned int setup_flags[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG,
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG,
	0,
};

static struct io_uring_sqe *next_sqe(struct mcr_worker *worker)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&worker->ring);

	if (!sqe) { /* the queue is full: in a second submission */
		io_uring_submit(&worker->ring);
		sqe = io_uring_get_sqe(&worker->ring);
	}
	return sqe;
}

static int arm_wake(struct mcr_worker *worker)
{
	struct io_uring_sqe *sqe = next_sqe(worker);

	if (!sqe)
		return -EBUSY;
	io_uring_prep_read(sqe, worker->wake_fd, &worker->wake_count, sizeof(worker->wake_count), 0);
	io_uring_sqe_set_data64(sqe, encode(KIND_WAKE, 0, 0));
	return 0;
}

static int arm_lifeline(struct mcr_worker *worker)
{
	struct io_uring_sqe *sqe = next_sqe(worker);

	if (!sqe)
		return -EBUSY;
	io_uring_prep_poll_add(sqe, worker->channel.fd, POLLRDHUP);
	io_uring_sqe_set_data64(sqe, encode(KIND_LIFELINE, 0, 0));
	return 0;
}

static int arm_captures(struct mcr_worker *worker)
{
	for (uint32_t i = 0; i < worker->active_count; i++) {
		struct mcr_capture *capture = &worker->captures[worker->active[i]];
		struct io_uring_sqe *sqe;

		if (capture->polled)
			continue;
		sqe = next_sqe(worker);
		if (!sqe)
			return -EBUSY;
		capture->poll_stays = !worker->pace.dense && !worker->no_standing_polls;
		if (capture->poll_stays)
			io_uring_prep_poll_multishot(sqe, capture->fd, POLLIN);
		else
			io_uring_prep_poll_add(sqe, capture->fd, POLLIN);
		io_uring_sqe_set_data64(sqe, encode(KIND_CAPTURE, worker->active[i], capture->serial));
		capture->polled = true;
	}
	return 0;
}

/* Not by liburing: 2.3 declares functions for what is needed here, and exports none. */
static int register_ring(struct io_uring *ring, unsigned int opcode, void *argument, unsigned int count)
{
	return syscall(SYS_io_uring_register, ring->ring_fd, opcode, argument, count) ? -errno : 0;
}

/*
 * Allow the ring the requests of this file and no others. A filter of system calls (privileges.h) does not see a ring's
 * requests, which could also open a file.
 */
static int restrict_ring(struct io_uring *ring)
{
	struct io_uring_restriction allowed[] = {
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_POLL_ADD },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_POLL_REMOVE },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_TIMEOUT }, /* liburing's, before 5.11 */
		{ .opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_REGISTER_ENABLE_RINGS },
		/* The last one: kernels before 5.18 don't know it, and refuse a list that names it. */
		{ .opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_UNREGISTER_RING_FDS },
	};
	unsigned int count = sizeof(allowed) / sizeof(*allowed);
	int ret = register_ring(ring, IORING_REGISTER_RESTRICTIONS, allowed, count);

	if (ret == -EINVAL)
		ret = register_ring(ring, IORING_REGISTER_RESTRICTIONS, allowed, count - 1);
	return ret ? ret : register_ring(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

/* A ring that may do what is asked of it here. It is entered once: in some 5.10 kernels it stays disabled for ever. */
static int open_ring(struct io_uring *ring)
{
	unsigned int i = 0;
	int ret = -EINVAL;

	for (; i < sizeof(setup_flags) / sizeof(setup_flags[0]) && ret == -EINVAL; i++) {
		struct io_uring_params params = { .flags = setup_flags[i] | IORING_SETUP_CQSIZE |
							   IORING_SETUP_R_DISABLED,
						  .cq_entries = CQ_ENTRIES };

		ret = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
	}
	if (ret)
		return ret;
	io_uring_register_ring_fd(ring); /* saves a descriptor look-up a call, where the kernel can */
	ret = restrict_ring(ring);
	if (!ret)
		ret = io_uring_get_events(ring);
	if (ret)
		io_uring_queue_exit(ring);
	return ret;
}

static int uring_open(struct mcr_worker *worker)
{
	int ret = open_ring(&worker->ring);

	if (ret)
		return ret;
	ret = arm_wake(worker);
	if (!ret)
		ret = arm_lifeline(worker);
	if (ret)
		io_uring_queue_exit(&worker->ring);
	return ret;
}

int mcr_uring_probe(void)
{
	struct io_uring ring;
	int ret = open_ring(&ring);

	if (!ret)
		io_uring_queue_exit(&ring);
	return ret;
}

static void uring_close(struct mcr_worker *worker)
{
	io_uring_queue_exit(&worker->ring);
}

static int on_capture_cqe(struct mcr_worker *worker, uint32_t slot, uint32_t serial, const struct io_uring_cqe *cqe)
{
	struct mcr_capture *capture = &worker->captures[slot];

	if (!capture->slots || capture->serial != serial)
		return 0; /* of a capture that has gone */
	capture->polled = cqe->flags & IORING_CQE_F_MORE;
	if (cqe->res == -EINVAL && capture->poll_stays) {
		worker->no_standing_polls = true;
		return 0;
	}
	if (cqe->res < 0)
		return cqe->res == -ECANCELED ? 0 : cqe->res;
	mcr_loop_captured(worker, slot, cqe->res);
	return 0;
}

static int on_cqe(struct mcr_worker *worker, const struct io_uring_cqe *cqe)
{
	uint32_t slot = (uint32_t)(cqe->user_data >> SLOT_SHIFT & 0xffff);

	if (cqe->user_data == LIBURING_UDATA_TIMEOUT)
		return 0; /* how liburing waits on kernels before 5.11 */
	switch ((enum kind)(cqe->user_data >> KIND_SHIFT)) {
	case KIND_CAPTURE:
		return on_capture_cqe(worker, slot, (uint32_t)cqe->user_data, cqe);
	case KIND_WAKE:
		return cqe->res < 0 ? cqe->res : arm_wake(worker);
	case KIND_LIFELINE:
		worker->abandoned = true;
		return 0;
	case KIND_CANCEL:
		return 0;
	}
	return -EPROTO;
}

static int reap(struct mcr_worker *worker)
{
	struct io_uring_cqe *cqe;
	unsigned int head, seen = 0;
	int ret = 0;

	io_uring_for_each_cqe(&worker->ring, head, cqe) {
		ret = on_cqe(worker, cqe);
		seen++;
		if (ret)
			break;
	}
	io_uring_cq_advance(&worker->ring, seen);
	return ret;
}

static int end_poll(struct mcr_worker *worker, uint32_t slot)
{
	struct io_uring_sqe *sqe = next_sqe(worker);
	int ret;

	if (!sqe)
		return -EBUSY;
	io_uring_prep_poll_remove(sqe, encode(KIND_CAPTURE, slot, worker->captures[slot].serial));
	io_uring_sqe_set_data64(sqe, encode(KIND_CANCEL, 0, 0));
	ret = io_uring_submit(&worker->ring);
	return ret < 0 ? ret : 0;
}

/* A poll under way would keep the socket, and with it its place in the fan-out group, alive. */
static int uring_forget(struct mcr_worker *worker, uint32_t slot)
{
	return worker->captures[slot].polled ? end_poll(worker, slot) : 0;
}

static int end_standing_polls(struct mcr_worker *worker)
{
	int ret = 0;

	for (uint32_t i = 0; i < worker->active_count && !ret; i++) {
		struct mcr_capture *capture = &worker->captures[worker->active[i]];

		if (capture->polled && capture->poll_stays)
			ret = end_poll(worker, worker->active[i]);
		capture->poll_stays = false;
	}
	return ret;
}

/* The kernel is entered only where it says that it has something to deliver. */
static int uring_look(struct mcr_worker *worker)
{
	int ret = 0;

	if (++worker->looks < LOOKS)
		return 0;
	worker->looks = 0;
	if (worker->pace.dense)
		ret = end_standing_polls(worker);
	if (!ret && mcr_load_relaxed32(worker->ring.sq.kflags) & IORING_SQ_TASKRUN)
		ret = io_uring_get_events(&worker->ring);
	return ret < 0 ? ret : reap(worker);
}

static int uring_wait(struct mcr_worker *worker, bool briefly)
{
	struct __kernel_timespec second = { .tv_sec = 1 };
	struct io_uring_cqe *cqe;
	int ret = arm_captures(worker);

	if (ret)
		return ret;
	if (briefly)
		ret = io_uring_submit_and_wait_timeout(&worker->ring, &cqe, 1, &second, NULL);
	else
		ret = io_uring_submit_and_wait(&worker->ring, 1);
	return ret < 0 && ret != -EINTR && ret != -ETIME ? ret : reap(worker);
}

const struct mcr_engine mcr_uring_engine = {
	.id = MCR_ENGINE_URING,
	.open = uring_open,
	.close = uring_close,
	.look = uring_look,
	.wait = uring_wait,
	.forget = uring_forget,
};
