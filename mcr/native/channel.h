/* SPDX-License-Identifier: MIT */
/*
 * The socket that brings a worker its descriptors. The supervisor sends them before the commands that name them, in the
 * same order, many in one message, so that a worker with a thousand hosts starts as fast as others.
 */
#ifndef MCR_CHANNEL_H
#define MCR_CHANNEL_H

#include <stdint.h>

#define MCR_CHANNEL_FDS 253 /* in one message, at most: SCM_MAX_FD of the kernel */

struct mcr_channel {
	int fd;
	uint32_t taken, arrived; /* of the last message */
	int fds[MCR_CHANNEL_FDS];
};

/* The next descriptor, which the caller then owns; or -errno, -EPROTO for a message without one. */
int mcr_channel_take(struct mcr_channel *channel);

/* Close it, and the descriptors that have arrived and were not taken. */
void mcr_channel_close(struct mcr_channel *channel);

#endif
