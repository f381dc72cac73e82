// SPDX-License-Identifier: MIT
#include "send.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "message.h"
#include "plan.h"

#define TOGETHER 64 /* sends in one system call, at most */

_Static_assert(MCR_MESSAGES <= UINT16_MAX, "last holds the number of any send");

/* By one socket, in order. */
struct run {
	int fd;
	uint32_t count;
	uint32_t members[TOGETHER];
};

static struct mcr_handful *in_hand(struct mcr_worker *worker)
{
	return &worker->batch.handful;
}

/* Slot of the egress that is the output's own. */
static uint32_t own_way(struct mcr_worker *worker, uint32_t member)
{
	return worker->rules.outputs[in_hand(worker)->sends[member].output].egress;
}

static int socket_of(struct mcr_worker *worker, uint32_t member)
{
	const struct mcr_egress *way = &worker->egress[in_hand(worker)->ways[member]];

	return in_hand(worker)->sends[member].raw ? way->raw_fd : way->fd;
}

static uint32_t choose_way(struct mcr_worker *worker, uint32_t member)
{
	uint32_t own = own_way(worker, member), common = worker->egress[own].common;

	return worker->egress[common].held && worker->egress[common].full != worker->refusals.epoch ? common : own;
}

/* Have sends by the same way follow one another. What `last` holds of earlier handfuls shows by not being of this way. */
static void chain(struct mcr_worker *worker, uint32_t member)
{
	struct mcr_handful *handful = in_hand(worker);
	uint32_t way = choose_way(worker, member), last = handful->last[way];

	if (last < member && handful->ways[last] == way)
		handful->next[last] = member;
	handful->last[way] = (uint16_t)member;
	handful->ways[member] = way;
	handful->next[member] = MCR_MESSAGES;
	handful->ended[member] = false;
}

static void note(struct mcr_worker *worker, const struct mcr_send *send, int result);

/* For want of carrier; mcrd has logged that. */
static void refuse(struct mcr_worker *worker, const struct mcr_send *send)
{
	struct mcr_outcome *outcome = &worker->batch.outcomes[send->outcome];

	outcome->errors += send->count;
	outcome->last_error = ENETDOWN;
}

/* Why it can't leave with its tag, as UDP sockets have none: too long for a raw frame, or there are none now. */
static int why_not_tagged(const struct mcr_worker *worker, const struct mcr_send *send)
{
	const struct mcr_egress *by = &worker->egress[worker->rules.outputs[send->output].egress];

	return send->payloads->iov_len > by->max_segment ? -EMSGSIZE : -EOPNOTSUPP;
}

/* Why a send may not leave, as nobody has to be asked. 0: it may. */
static int judge(const struct mcr_worker *worker, const struct mcr_send *send)
{
	const struct mcr_output *output = &worker->rules.outputs[send->output];

	if (output->no_carrier)
		return -ENETDOWN;
	if (send->expired)
		return -ETIME;
	if (output->keeps & MCR_KEEP_SOURCE && !mcr_is_address(send->origin->address, mcr_output_is_ipv6(output)))
		return -EADDRNOTAVAIL;
	return send->vlan && !send->raw ? why_not_tagged(worker, send) : 0;
}

/* The next sends of the plan. Whether there may be more. */
static bool fill(struct mcr_worker *worker)
{
	struct mcr_handful *handful = in_hand(worker);
	struct mcr_send *send;
	bool more = true;
	int why_not;

	handful->count = 0;
	handful->iov_count = 0;
	while (more && mcr_message_has_room(handful)) {
		send = &handful->sends[handful->count];
		more = mcr_plan_next(&worker->batch, &worker->rules, worker->egress, &worker->refusals, send);
		if (!more)
			break;
		why_not = judge(worker, send);
		if (why_not == -ENETDOWN)
			refuse(worker, send);
		else if (why_not)
			note(worker, send, why_not);
		else
			mcr_message_add(handful, &worker->rules, worker->egress);
	}
	for (uint32_t i = 0; i < handful->count; i++)
		chain(worker, i);
	return more;
}

/* From the first on, those by its way; one by the other socket of that ends the run, or it would be overtaken. */
static void gather_run(struct mcr_worker *worker, uint32_t first, struct run *run)
{
	const struct mcr_handful *handful = in_hand(worker);

	run->fd = socket_of(worker, first);
	run->count = 0;
	for (uint32_t i = first; i < MCR_MESSAGES && run->count < TOGETHER; i = handful->next[i]) {
		if (handful->ended[i])
			continue;
		if (socket_of(worker, i) != run->fd)
			break;
		run->members[run->count++] = i;
	}
}

/* Bytes of a send that are not its payloads. */
static size_t header_size(const struct mcr_send *send)
{
	if (!send->raw)
		return send->origin ? sizeof(struct udphdr) : 0;
	return send->vlan ? sizeof(struct mcr_tagged_header) : sizeof(struct mcr_raw_header);
}

/* A send has ended: `result` is the bytes sent, or -errno. */
static void note(struct mcr_worker *worker, const struct mcr_send *send, int result)
{
	struct mcr_outcome *outcome = &worker->batch.outcomes[send->outcome];

	if (result >= 0) {
		outcome->sent += send->count;
		outcome->bytes += (uint64_t)result - header_size(send);
		return;
	}
	outcome->errors += send->count;
	outcome->last_error = (uint32_t)-result;
	mcr_log_folded(&worker->log, MCR_FACILITY_EGRESS, MCR_LEVEL_WARNING, MCR_LOG_SEND_FAILED, send->output,
		       (uint64_t)-result, send->payloads->iov_len);
}

/* By its own UDP socket, one datagram at a time. */
static void send_singly(struct mcr_worker *worker, uint32_t member)
{
	const struct mcr_send *send = &in_hand(worker)->sends[member];
	const struct mcr_output *output = &worker->rules.outputs[send->output];
	int fd = worker->egress[own_way(worker, member)].fd;
	union mcr_message_options options;
	union mcr_sent_to to;

	for (uint32_t i = 0; i < send->count; i++) {
		struct mcr_send single = *send;
		struct msghdr message;
		ssize_t sent;

		single.payloads += i;
		single.count = 1;
		single.raw = false;
		message = mcr_message_datagrams(&single, output, &to, &options);
		sent = sendmsg(fd, &message, MSG_DONTWAIT);
		note(worker, &single, sent < 0 ? -errno : (int)sent);
	}
}

/* Whether this result of a raw frame is for IP to judge: it may cut the datagram, or know another way, or say why not. */
static bool is_for_ip(const struct mcr_send *send, int result)
{
	/* But without room here there is none there either, or it would overtake datagrams that wait. */
	return send->raw && !send->vlan && result < 0 && result != -EAGAIN && result != -ENOBUFS && result != -ENOMEM;
}

/* Its output gets no raw frames for now. This send and those behind it leave through IP, in order. */
static void leave_through_ip(struct mcr_worker *worker, uint32_t member)
{
	struct mcr_handful *handful = in_hand(worker);
	uint32_t output = handful->sends[member].output;

	worker->refusals.outputs[output].raw = worker->refusals.epoch;
	for (uint32_t i = member; i < handful->count; i++) {
		if (handful->ended[i] || handful->sends[i].output != output)
			continue;
		handful->ended[i] = true;
		send_singly(worker, i);
	}
}

/* Whether this result of a train means that its output can't have trains now (and says nothing about its payloads). */
static bool is_train_refused(const struct mcr_send *send, int result)
{
	/* A device without checksum offload, a path MTU below the segment, a kernel that wants fewer segments. */
	return send->count > 1 && (result == -EIO || result == -EINVAL || result == -EMSGSIZE);
}

/* Its output gets no trains for now. Its datagrams leave one by one. */
static void cut_train(struct mcr_worker *worker, uint32_t member, int result)
{
	uint32_t output = in_hand(worker)->sends[member].output;
	struct mcr_output_refusals *refused = &worker->refusals.outputs[output];
	bool told = refused->train;

	refused->train = worker->refusals.epoch;
	if (!told)
		mcr_log_folded(&worker->log, MCR_FACILITY_EGRESS, MCR_LEVEL_NOTICE, MCR_LOG_TRAIN_REFUSED, output,
			       (uint64_t)-result, 0);
	send_singly(worker, member);
}

static void send_one(struct mcr_worker *worker, uint32_t member);

/* The common socket is full. This send and those behind it leave by their own, in order. */
static void leave_common(struct mcr_worker *worker, uint32_t member)
{
	struct mcr_handful *handful = in_hand(worker);
	uint32_t common = handful->ways[member];

	worker->egress[common].full = worker->refusals.epoch;
	for (uint32_t i = member; i < handful->count; i++) {
		if (handful->ended[i] || handful->ways[i] != common)
			continue;
		handful->ways[i] = own_way(worker, i);
		send_one(worker, i);
	}
}

/* Note the result of a send. False: other sends have ended as well, perhaps the one that was to be next. */
static bool end(struct mcr_worker *worker, uint32_t member, int result)
{
	struct mcr_handful *handful = in_hand(worker);
	const struct mcr_send *send = &handful->sends[member];

	if (result == -EAGAIN && handful->ways[member] != own_way(worker, member)) {
		leave_common(worker, member);
		return false;
	}
	if (is_for_ip(send, result)) {
		leave_through_ip(worker, member);
		return false;
	}
	handful->ended[member] = true;
	if (is_train_refused(send, result))
		cut_train(worker, member, result);
	else
		note(worker, send, result);
	return true;
}

static void send_one(struct mcr_worker *worker, uint32_t member)
{
	const struct msghdr *message = &in_hand(worker)->messages[member];
	int fd = socket_of(worker, member);
	ssize_t sent;

	/* For a single datagram the kernel has less to copy than with sendmsg. */
	if (message->msg_iovlen == 1 && !message->msg_controllen)
		sent = sendto(fd, message->msg_iov->iov_base, message->msg_iov->iov_len, MSG_DONTWAIT,
			      message->msg_name, message->msg_namelen);
	else
		sent = sendmsg(fd, message, MSG_DONTWAIT);
	end(worker, member, sent < 0 ? -errno : (int)sent);
}

/* As much of it as leaves in this way. */
static void send_run(struct mcr_worker *worker, const struct run *run)
{
	struct mmsghdr together[TOGETHER];

	for (uint32_t i = 0; i < run->count; i++)
		together[i] = (struct mmsghdr){ .msg_hdr = in_hand(worker)->messages[run->members[i]] };
	for (uint32_t done = 0; done < run->count;) {
		int sent = sendmmsg(run->fd, together + done, run->count - done, MSG_DONTWAIT);

		/* The first one failed; what becomes of the others is for the next call. */
		if (sent < 0 && !end(worker, run->members[done++], -errno))
			return;
		for (int i = 0; i < sent; i++, done++)
			end(worker, run->members[done], (int)together[done].msg_len);
	}
}

void mcr_send_all(struct mcr_worker *worker)
{
	const struct mcr_handful *handful = in_hand(worker);
	struct run run;
	bool more;

	do {
		more = fill(worker);
		for (uint32_t i = 0; i < handful->count; i++) {
			if (handful->ended[i])
				continue;
			gather_run(worker, i, &run);
			if (run.count == 1)
				send_one(worker, i);
			else
				send_run(worker, &run);
		}
	} while (more);
}
