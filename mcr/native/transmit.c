// SPDX-License-Identifier: MIT
#include "transmit.h"

#include <errno.h>
#include <sys/socket.h>

#include "forward.h"

#define TOGETHER 64 /* sends in one system call, at most */

/* Sends whose messages are made, and which of them have ended. */
struct handful {
	struct mcr_send *sends;
	uint32_t count;
	bool ended[MCR_MESSAGES];
};

/* By one socket, in order. */
struct run {
	int fd;
	uint32_t count;
	uint32_t members[TOGETHER];
};

static void end(struct mcr_worker *worker, struct handful *handful, uint32_t member, int result)
{
	handful->ended[member] = true;
	mcr_forward_sent(worker, &handful->sends[member], result);
}

static uint32_t interface_of(const struct mcr_worker *worker, const struct mcr_send *send)
{
	return worker->rules.outputs[send->output].egress;
}

static int socket_of(const struct mcr_worker *worker, const struct mcr_send *send)
{
	const struct mcr_egress *egress = &worker->egress[interface_of(worker, send)];

	return send->raw ? egress->raw_fd : egress->fd;
}

/* From the first on, those by its interface; one by the interface's other socket ends the run, or it would be overtaken. */
static void gather_run(const struct mcr_worker *worker, const struct handful *handful, uint32_t first, struct run *run)
{
	uint32_t interface = interface_of(worker, &handful->sends[first]);

	run->fd = socket_of(worker, &handful->sends[first]);
	run->count = 0;
	for (uint32_t i = first; i < handful->count && run->count < TOGETHER; i++) {
		if (handful->ended[i] || interface_of(worker, &handful->sends[i]) != interface)
			continue;
		if (socket_of(worker, &handful->sends[i]) != run->fd)
			break;
		run->members[run->count++] = i;
	}
}

static void send_one(struct mcr_worker *worker, struct handful *handful, int fd, uint32_t member)
{
	const struct msghdr *message = &worker->messages.messages[member];
	ssize_t sent;

	if (message->msg_iovlen == 1) /* for a single datagram the kernel has less to copy than with sendmsg */
		sent = sendto(fd, message->msg_iov->iov_base, message->msg_iov->iov_len, MSG_DONTWAIT,
			      message->msg_name, message->msg_namelen);
	else
		sent = sendmsg(fd, message, MSG_DONTWAIT);
	end(worker, handful, member, sent < 0 ? -errno : (int)sent);
}

static void send_run(struct mcr_worker *worker, struct handful *handful, const struct run *run)
{
	struct mmsghdr together[TOGETHER];

	for (uint32_t i = 0; i < run->count; i++)
		together[i] = (struct mmsghdr){ .msg_hdr = worker->messages.messages[run->members[i]] };
	for (uint32_t done = 0; done < run->count;) {
		int sent = sendmmsg(run->fd, together + done, run->count - done, MSG_DONTWAIT);

		if (sent < 0) /* the first one failed; what becomes of the others is for the next call */
			end(worker, handful, run->members[done++], -errno);
		for (int i = 0; i < sent; i++, done++)
			end(worker, handful, run->members[done], (int)together[done].msg_len);
	}
}

void mcr_transmit(struct mcr_worker *worker, struct mcr_send *sends, uint32_t count)
{
	for (uint32_t made; count; sends += made, count -= made) {
		struct handful handful = { .sends = sends };
		struct run run;

		made = mcr_messages_make(&worker->messages, sends, count, &worker->rules, worker->egress);
		handful.count = made;
		for (uint32_t i = 0; i < made; i++) {
			if (handful.ended[i])
				continue;
			gather_run(worker, &handful, i, &run);
			if (run.count == 1)
				send_one(worker, &handful, run.fd, i);
			else
				send_run(worker, &handful, &run);
		}
	}
}
