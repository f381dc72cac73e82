/* SPDX-License-Identifier: MIT */
/*
 * What the kernel is given of a planned send: a message for its output's UDP socket, or a raw frame for its AF_PACKET
 * socket. Pure; memory for so many at a time.
 */
#ifndef MCR_MESSAGE_H
#define MCR_MESSAGE_H

#include <stdint.h>
#include <sys/socket.h>

#include "egress.h"
#include "raw.h"

#define MCR_MESSAGES    256  /* at a time */
#define MCR_MESSAGE_IOV 2048 /* pieces of all raw frames among them */

/* The UDP_SEGMENT option of a train. */
union mcr_train_option {
	char bytes[CMSG_SPACE(sizeof(uint16_t))];
	struct cmsghdr align;
};

/* By the number of the message. */
struct mcr_messages {
	struct msghdr messages[MCR_MESSAGES];
	struct mcr_raw_header headers[MCR_MESSAGES];
	union mcr_train_option options[MCR_MESSAGES];
	struct iovec iov[MCR_MESSAGE_IOV];
};

/* Make the messages of the first sends, in the place of those made before. How many: one at least, if there is one. */
uint32_t mcr_messages_make(struct mcr_messages *messages, const struct mcr_send *sends, uint32_t count,
			   struct mcr_rules *rules, const struct mcr_egress *egress);

#endif
