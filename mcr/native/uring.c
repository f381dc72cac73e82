// SPDX-License-Identifier: MIT
/*
 * The worker's loop: apply commands, move a batch from each capture, sleep only when nothing waits.
 *
 * Captures are read without a system call. The sends of a batch enter the kernel together and end there and then
 * (MSG_DONTWAIT: a full socket is an error that is counted, never a wait and never a reordering). Polls are armed
 * only before sleeping, so that a busy worker costs the interrupt side no wake-ups.
 */
#include "uring.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "control.h"
#include "forward.h"

#define SQ_ENTRIES MCR_BATCH_SENDS
#define CQ_ENTRIES (4 * SQ_ENTRIES)

/*
 * user_data of a request: a send's address; or, told by the top bit that no address has, one of these with a capture's
 * slot and serial, as a poll may end after its slot has got another capture.
 */
enum kind { KIND_CAPTURE, KIND_WAKE, KIND_LIFELINE, KIND_CANCEL };

#define NO_SEND    (UINT64_C(1) << 63)
#define KIND_SHIFT 48
#define SLOT_SHIFT 32

static uint64_t encode(enum kind kind, uint32_t slot, uint32_t serial)
{
	return NO_SEND | (uint64_t)kind << KIND_SHIFT | (uint64_t)slot << SLOT_SHIFT | serial;
}

/* Newest flags first; an older kernel refuses those it doesn't know. */
static const unsigned int setup_flags[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
	0,
};

static struct io_uring_sqe *next_sqe(struct mcr_worker *worker)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&worker->ring);

	if (!sqe) { /* the queue holds a batch of sends; polls beyond that go in a second submission */
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
	io_uring_prep_poll_add(sqe, worker->channel_fd, POLLRDHUP);
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
		io_uring_prep_poll_add(sqe, capture->fd, POLLIN);
		io_uring_sqe_set_data64(sqe, encode(KIND_CAPTURE, worker->active[i], capture->serial));
		capture->polled = true;
	}
	return 0;
}

int mcr_uring_open(struct mcr_worker *worker)
{
	unsigned int i = 0;
	int ret = -EINVAL;

	for (; i < sizeof(setup_flags) / sizeof(setup_flags[0]) && ret == -EINVAL; i++) {
		struct io_uring_params params = { .flags = setup_flags[i] | IORING_SETUP_CQSIZE,
						  .cq_entries = CQ_ENTRIES };

		ret = io_uring_queue_init_params(SQ_ENTRIES, &worker->ring, &params);
	}
	if (ret)
		return ret;
	io_uring_register_ring_fd(&worker->ring); /* saves a descriptor look-up a call, where the kernel can */
	mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_INFO, MCR_LOG_STARTED, worker->ring.flags, 0, 0);
	ret = arm_wake(worker);
	return ret ? ret : arm_lifeline(worker);
}

int mcr_uring_probe(void)
{
	struct io_uring ring;
	int ret = io_uring_queue_init(1, &ring, 0);

	if (!ret)
		io_uring_queue_exit(&ring);
	return ret;
}

void mcr_uring_close(struct mcr_worker *worker)
{
	io_uring_queue_exit(&worker->ring);
}

/* A poll reported an error: read it, so that it is reported once and the next poll waits again. */
static void on_capture_error(struct mcr_worker *worker, uint32_t slot)
{
	int error = 0;
	socklen_t size = sizeof(error);

	getsockopt(worker->captures[slot].fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error)
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_WARNING, MCR_LOG_CAPTURE_ERROR, slot,
			       (uint64_t)error, 0);
}

static int on_capture_cqe(struct mcr_worker *worker, uint32_t slot, uint32_t serial, int result)
{
	struct mcr_capture *capture = &worker->captures[slot];

	if (!capture->slots || capture->serial != serial)
		return 0; /* of a capture that has gone */
	capture->polled = false;
	if (result < 0)
		return result;
	capture->woken = result & POLLIN;
	if (result & POLLERR)
		on_capture_error(worker, slot);
	return 0;
}

static int on_cqe(struct mcr_worker *worker, const struct io_uring_cqe *cqe)
{
	uint32_t slot = (uint32_t)(cqe->user_data >> SLOT_SHIFT & 0xffff);

	if (cqe->user_data == LIBURING_UDATA_TIMEOUT)
		return 0; /* how liburing waits on kernels before 5.11 */
	if (!(cqe->user_data & NO_SEND)) {
		worker->sends_under_way--;
		mcr_forward_sent(worker, io_uring_cqe_get_data(cqe), cqe->res);
		return 0;
	}
	switch ((enum kind)(cqe->user_data >> KIND_SHIFT & 0xff)) {
	case KIND_CAPTURE:
		return on_capture_cqe(worker, slot, (uint32_t)cqe->user_data, cqe->res);
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

static int queue_send(struct mcr_worker *worker, struct mcr_send *send)
{
	struct mcr_output *output = &worker->rules.outputs[send->output];
	struct io_uring_sqe *sqe = next_sqe(worker);

	if (!sqe)
		return -EBUSY;
	io_uring_prep_sendmsg(sqe, worker->egress[output->egress].fd, &send->message, MSG_DONTWAIT);
	io_uring_sqe_set_data(sqe, send);
	output->train_pending = send->message.msg_iovlen > 1 && !output->train_proven;
	worker->sends_under_way++;
	return 0;
}

/* Enter the kernel until every send under way has ended; they do so at once. */
static int settle(struct mcr_worker *worker)
{
	int ret = 0;

	while (!ret && worker->sends_under_way) {
		ret = io_uring_submit_and_wait(&worker->ring, 1);
		ret = ret < 0 && ret != -EINTR ? ret : reap(worker);
		worker->entered = true;
	}
	return ret;
}

static int send_singly(struct mcr_worker *worker, const struct mcr_send *train)
{
	uint32_t count = mcr_batch_split(&worker->batch, train);
	int ret = 0;

	for (uint32_t i = 0; i < count && !ret; i++)
		ret = queue_send(worker, &worker->batch.singles[i]);
	return ret ? ret : settle(worker);
}

static int resend_refused(struct mcr_worker *worker, uint32_t count)
{
	int ret = 0;

	for (uint32_t i = 0; i < count && !ret; i++)
		if (worker->sends[i].refused)
			ret = send_singly(worker, &worker->sends[i]);
	return ret;
}

static bool plan_send(struct mcr_worker *worker, struct mcr_send *send)
{
	return mcr_plan_next(&worker->plan, &worker->batch, &worker->rules, worker->egress, send);
}

/*
 * Queue sends until there are no more, or one may not leave yet: behind the first train of its output, which may turn
 * out to be refused and has to be sent again before it. *more tells whether one waits, behind the *count queued ones.
 */
static int queue_wave(struct mcr_worker *worker, uint32_t *count, bool *more)
{
	struct mcr_send *send;
	int ret = 0;

	for (*count = 0; *more && *count < MCR_BATCH_SENDS && !ret; *more = plan_send(worker, &worker->sends[*count])) {
		send = &worker->sends[*count];
		if (worker->rules.outputs[send->output].train_pending)
			break;
		ret = queue_send(worker, send);
		++*count;
	}
	return ret;
}

/* Send the batch and learn what became of each datagram. */
static int send_batch(struct mcr_worker *worker)
{
	bool more = plan_send(worker, &worker->sends[0]);
	uint32_t count;
	int ret = 0;

	while (more && !ret) {
		ret = queue_wave(worker, &count, &more);
		if (!ret)
			ret = settle(worker);
		if (!ret)
			ret = resend_refused(worker, count);
		worker->sends[0] = worker->sends[count];
	}
	return ret;
}

/* Move one batch. The number of packets taken, or -errno. */
static int move_batch(struct mcr_worker *worker, uint32_t slot)
{
	struct mcr_capture *capture = &worker->captures[slot];
	uint32_t taken = mcr_forward_gather(worker, slot);
	int ret;

	if (!taken) {
		/* Twice woken for nothing: only copies without a slot are left to read. */
		if (capture->woken && capture->polled_in_vain)
			mcr_oversize_flush(capture);
		capture->polled_in_vain = capture->woken;
		capture->woken = false;
		return 0;
	}
	capture->woken = capture->polled_in_vain = false;
	ret = send_batch(worker);
	if (ret)
		return ret;
	mcr_forward_commit(worker, slot, taken);
	return (int)taken;
}

/* A poll under way would keep the socket, and with it its place in the fan-out group, alive. */
static int cancel_poll(struct mcr_worker *worker, uint32_t slot)
{
	struct io_uring_sqe *sqe;

	if (!worker->captures[slot].polled)
		return 0;
	sqe = next_sqe(worker);
	if (!sqe)
		return -EBUSY;
	io_uring_prep_poll_remove(sqe, encode(KIND_CAPTURE, slot, worker->captures[slot].serial));
	io_uring_sqe_set_data64(sqe, encode(KIND_CANCEL, 0, 0));
	return 0;
}

static int detach(struct mcr_worker *worker, uint32_t slot)
{
	int ret = cancel_poll(worker, slot);

	if (ret)
		return ret;
	mcr_control_detach(worker, slot);
	ret = io_uring_submit(&worker->ring); /* now: the supervisor is about to close the socket */
	return ret < 0 ? ret : 0;
}

/* One batch from every capture, so that a busy one can't starve the others. Packets taken, or -errno. */
static int turn(struct mcr_worker *worker)
{
	int total = 0;

	for (uint32_t i = worker->active_count; i-- > 0;) {
		uint32_t slot = worker->active[i];
		int taken = move_batch(worker, slot);

		if (taken < 0)
			return taken;
		if (!taken && worker->captures[slot].leaving) {
			int ret = detach(worker, slot);

			if (ret)
				return ret;
			taken = 1; /* commands may have waited for it */
		}
		total += taken;
	}
	return total;
}

/* Sleep until a capture, a command or the supervisor's end wakes the worker. */
static int wait_for_work(struct mcr_worker *worker)
{
	/* While records are held back, wake to write them. */
	struct __kernel_timespec second = { .tv_sec = 1 };
	struct io_uring_cqe *cqe;
	int ret = arm_captures(worker);

	if (ret)
		return ret;
	if (worker->log.pending)
		ret = io_uring_submit_and_wait_timeout(&worker->ring, &cqe, 1, &second, NULL);
	else
		ret = io_uring_submit_and_wait(&worker->ring, 1);
	return ret < 0 && ret != -EINTR && ret != -ETIME ? ret : 0;
}

int mcr_uring_run(struct mcr_worker *worker)
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
		if (drained)
			mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_DEBUG, MCR_LOG_DRAINED, 0, 0, 0);
		mcr_log_flush(&worker->log);
		mcr_control_report(worker);
		if (worker->abandoned)
			return -EPIPE;
		if (drained)
			return 0;
		/* Completions of polls are delivered on entry to the kernel; a batch that sent nothing makes none. */
		if (!taken)
			ret = wait_for_work(worker);
		else if (!worker->entered)
			ret = io_uring_get_events(&worker->ring);
		if (ret < 0)
			return ret;
		worker->entered = false;
		ret = reap(worker);
		if (ret)
			return ret;
	}
}
