/* SPDX-License-Identifier: MIT */
/* One batch of datagrams to send, each gathered from where it was received. Pure: plans, and sends nothing. */
#ifndef MCR_EGRESS_H
#define MCR_EGRESS_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "rules.h"
#include "shm_abi.h"

/* One sendmsg: today one payload to one output. */
struct mcr_send {
	struct msghdr message;
	struct iovec payload;
	uint32_t output;
};

struct mcr_batch {
	uint32_t count;
	struct mcr_send sends[MCR_BATCH_SENDS];
};

/* Plan one payload for one output. The batch must have room. */
void mcr_batch_add(struct mcr_batch *batch, struct mcr_rules *rules, uint32_t output, const uint8_t *payload,
		   uint32_t size);

#endif
