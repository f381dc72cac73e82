// SPDX-License-Identifier: MIT
#include "channel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int receive(struct mcr_channel *channel)
{
	char control[CMSG_SPACE(sizeof(channel->fds))] = { 0 };
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = sizeof(byte) };
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *head;
	size_t size;

	if (recvmsg(channel->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
		return -errno;
	head = CMSG_FIRSTHDR(&message);
	if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS || message.msg_flags & MSG_CTRUNC)
		return -EPROTO;
	size = head->cmsg_len - CMSG_LEN(0);
	if (size < sizeof(int) || size > sizeof(channel->fds))
		return -EPROTO;
	memcpy(channel->fds, CMSG_DATA(head), size);
	channel->taken = 0;
	channel->arrived = (uint32_t)(size / sizeof(int));
	return 0;
}

int mcr_channel_take(struct mcr_channel *channel)
{
	if (channel->taken == channel->arrived) {
		int ret = receive(channel);

		if (ret)
			return ret;
	}
	return channel->fds[channel->taken++];
}

void mcr_channel_close(struct mcr_channel *channel)
{
	while (channel->taken < channel->arrived)
		close(channel->fds[channel->taken++]);
	close(channel->fd);
}
