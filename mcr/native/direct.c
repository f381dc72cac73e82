// SPDX-License-Identifier: MIT
#include "direct.h"

#include <errno.h>
#include <sys/socket.h>

#include "forward.h"

int mcr_direct_socket(const struct mcr_worker *worker, const struct mcr_send *send)
{
	return worker->egress[worker->rules.outputs[send->output].egress].fd;
}

void mcr_direct_send(struct mcr_worker *worker, struct mcr_send *send)
{
	const struct msghdr *message = &send->message;
	int fd = mcr_direct_socket(worker, send);
	ssize_t sent;

	if (message->msg_iovlen == 1) /* for a single datagram the kernel has less to copy than with sendmsg */
		sent = sendto(fd, message->msg_iov->iov_base, message->msg_iov->iov_len, MSG_DONTWAIT,
			      message->msg_name, message->msg_namelen);
	else
		sent = sendmsg(fd, message, MSG_DONTWAIT);
	mcr_forward_sent(worker, send, sent < 0 ? -errno : (int)sent);
}
