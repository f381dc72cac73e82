/* SPDX-License-Identifier: MIT */
/*
 * What the kernel is given of a planned send: a message for its output's UDP socket, or a raw frame for its AF_PACKET
 * socket. Pure; memory for so many at a time.
 */
#ifndef MCR_MESSAGE_H
#define MCR_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "plan.h"
#include "raw.h"

#define MCR_MESSAGES    256  /* at a time */
#define MCR_MESSAGE_IOV 2048 /* pieces of all raw frames among them */

/* The UDP_SEGMENT option of a train. */
union mcr_train_option {
	char bytes[CMSG_SPACE(sizeof(uint16_t))];
	struct cmsghdr align;
};

/* A handful of sends, by their number. */
struct mcr_messages {
	uint32_t count;
	uint32_t iov_count;
	struct mcr_send sends[MCR_MESSAGES];
	struct msghdr messages[MCR_MESSAGES];
	struct mcr_raw_header headers[MCR_MESSAGES];
	union mcr_train_option options[MCR_MESSAGES];
	struct iovec iov[MCR_MESSAGE_IOV];
};

void mcr_messages_clear(struct mcr_messages *messages);

/* Whether there is room for one more, whatever it is. */
bool mcr_messages_have_room(const struct mcr_messages *messages);

/* Make the message of one more send. */
void mcr_messages_add(struct mcr_messages *messages, const struct mcr_send *send, struct mcr_rules *rules,
		      const struct mcr_egress *egress);

#endif
