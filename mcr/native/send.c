// SPDX-License-Identifier: MIT
#include "send.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "gather.h"

#define TOGETHER 64 /* sends in one system call, at most */

/* Sends whose messages are made, and which of them have ended. */
struct handful {
	struct mcr_worker *worker;
	struct mcr_send *sends;
	struct msghdr *messages;
	uint32_t count;
	struct mcr_egress *ways[MCR_MESSAGES];
	uint32_t next[MCR_MESSAGES]; /* send by the same way; MCR_MESSAGES: there is none */
	bool ended[MCR_MESSAGES];
};

/* By one socket, in order. */
struct run {
	int fd;
	uint32_t count;
	uint32_t members[TOGETHER];
};

static struct mcr_egress *own_egress(const struct handful *handful, uint32_t member)
{
	struct mcr_worker *worker = handful->worker;

	return &worker->egress[worker->rules.outputs[handful->sends[member].output].egress];
}

static int socket_of(const struct handful *handful, uint32_t member)
{
	const struct mcr_egress *way = handful->ways[member];

	return handful->sends[member].raw ? way->raw_fd : way->fd;
}

static struct mcr_egress *choose_way(const struct handful *handful, uint32_t member)
{
	struct mcr_egress *own = own_egress(handful, member), *common = &handful->worker->egress[own->common];

	return common->held && common->full != handful->worker->rules.epoch ? common : own;
}

/* Have sends by the same way follow one another. */
static void chain(struct handful *handful, uint32_t member)
{
	struct mcr_egress *way = choose_way(handful, member);

	if (way->handful == handful->worker->handfuls)
		handful->next[way->last_send] = member;
	way->handful = handful->worker->handfuls;
	way->last_send = member;
	handful->ways[member] = way;
	handful->next[member] = MCR_MESSAGES;
}

/* The next sends of the plan. Whether there may be more. */
static bool fill(struct handful *handful)
{
	struct mcr_worker *worker = handful->worker;
	struct mcr_messages *messages = &worker->messages;
	struct mcr_send send;
	bool more = true;

	mcr_messages_clear(messages);
	while (more && mcr_messages_have_room(messages)) {
		more = mcr_plan_next(&worker->plan, &worker->batch, &worker->rules, worker->egress, &send);
		if (more)
			mcr_messages_add(messages, &send, &worker->rules, worker->egress);
	}
	handful->sends = messages->sends;
	handful->messages = messages->messages;
	handful->count = messages->count;
	memset(handful->ended, 0, sizeof(handful->ended));
	worker->handfuls++;
	for (uint32_t i = 0; i < handful->count; i++)
		chain(handful, i);
	return more;
}

/* From the first on, those by its way; one by the other socket of that ends the run, or it would be overtaken. */
static void gather_run(const struct handful *handful, uint32_t first, struct run *run)
{
	run->fd = socket_of(handful, first);
	run->count = 0;
	for (uint32_t i = first; i < MCR_MESSAGES && run->count < TOGETHER; i = handful->next[i]) {
		if (handful->ended[i])
			continue;
		if (socket_of(handful, i) != run->fd)
			break;
		run->members[run->count++] = i;
	}
}

/* By its own UDP socket, one datagram at a time. */
static void send_singly(const struct handful *handful, uint32_t member)
{
	struct mcr_worker *worker = handful->worker;
	const struct mcr_send *send = &handful->sends[member];
	const struct sockaddr_in *to = &worker->rules.outputs[send->output].to;

	for (uint32_t i = 0; i < send->count; i++) {
		struct mcr_send single = { .payloads = send->payloads + i, .count = 1, .output = send->output };
		ssize_t sent = sendto(own_egress(handful, member)->fd, single.payloads->iov_base,
				      single.payloads->iov_len, MSG_DONTWAIT, (const struct sockaddr *)to, sizeof(*to));

		mcr_forward_sent(worker, &single, sent < 0 ? -errno : (int)sent);
	}
}

/* Its output gets no raw frames for now. This send and those behind it leave through IP, in order. */
static void leave_through_ip(struct handful *handful, uint32_t member)
{
	struct mcr_rules *rules = &handful->worker->rules;
	uint32_t output = handful->sends[member].output;

	rules->outputs[output].refused = rules->epoch;
	for (uint32_t i = member; i < handful->count; i++) {
		if (handful->ended[i] || handful->sends[i].output != output)
			continue;
		handful->ended[i] = true;
		send_singly(handful, i);
	}
}

static void send_one(struct handful *handful, uint32_t member);

/* The common socket is full. This send and those behind it leave by their own, in order. */
static void leave_common(struct handful *handful, uint32_t member)
{
	struct mcr_egress *common = handful->ways[member];

	common->full = handful->worker->rules.epoch;
	for (uint32_t i = member; i < handful->count; i++) {
		if (handful->ended[i] || handful->ways[i] != common)
			continue;
		handful->ways[i] = own_egress(handful, i);
		send_one(handful, i);
	}
}

/* A send has come to this. False: so have others, and what was to be sent next may be gone. */
static bool end(struct handful *handful, uint32_t member, int result)
{
	const struct mcr_send *send = &handful->sends[member];

	if (result == -EAGAIN && handful->ways[member] != own_egress(handful, member)) {
		leave_common(handful, member);
		return false;
	}
	if (mcr_raw_refused(send, result)) {
		leave_through_ip(handful, member);
		return false;
	}
	handful->ended[member] = true;
	if (mcr_train_refused(send, result)) {
		mcr_forward_train_refused(handful->worker, send, result);
		send_singly(handful, member);
	} else {
		mcr_forward_sent(handful->worker, send, result);
	}
	return true;
}

static void send_one(struct handful *handful, uint32_t member)
{
	const struct msghdr *message = &handful->messages[member];
	int fd = socket_of(handful, member);
	ssize_t sent;

	if (message->msg_iovlen == 1) /* for a single datagram the kernel has less to copy than with sendmsg */
		sent = sendto(fd, message->msg_iov->iov_base, message->msg_iov->iov_len, MSG_DONTWAIT,
			      message->msg_name, message->msg_namelen);
	else
		sent = sendmsg(fd, message, MSG_DONTWAIT);
	end(handful, member, sent < 0 ? -errno : (int)sent);
}

/* As much of it as leaves in this way. */
static void send_run(struct handful *handful, const struct run *run)
{
	struct mmsghdr together[TOGETHER];

	for (uint32_t i = 0; i < run->count; i++)
		together[i] = (struct mmsghdr){ .msg_hdr = handful->messages[run->members[i]] };
	for (uint32_t done = 0; done < run->count;) {
		int sent = sendmmsg(run->fd, together + done, run->count - done, MSG_DONTWAIT);

		/* The first one failed; what becomes of the others is for the next call. */
		if (sent < 0 && !end(handful, run->members[done++], -errno))
			return;
		for (int i = 0; i < sent; i++, done++)
			end(handful, run->members[done], (int)together[done].msg_len);
	}
}

void mcr_transmit(struct mcr_worker *worker)
{
	struct handful handful;
	struct run run;
	bool more;

	do {
		handful.worker = worker;
		more = fill(&handful);
		for (uint32_t i = 0; i < handful.count; i++) {
			if (handful.ended[i])
				continue;
			gather_run(&handful, i, &run);
			if (run.count == 1)
				send_one(&handful, i);
			else
				send_run(&handful, &run);
		}
	} while (more);
}
