/* SPDX-License-Identifier: MIT */
/*
 * The message that the kernel gets for a planned send: for its output's UDP socket, or a raw frame for its AF_PACKET
 * socket. Pure; there is memory for a limited number at a time.
 */
#ifndef MCR_MESSAGE_H
#define MCR_MESSAGE_H

#include "batch.h"
#include "egress.h"
#include "parse.h"

/*
 * Whether datagrams can come from it: four words, of IPv4 the first. A host without an address may send on its link, from
 * 0.0.0.0/8 or ::. IP refuses the one, and takes 0.0.0.0 and :: for no source.
 */
static inline bool mcr_is_address(const uint32_t *address, bool is_ipv6)
{
	if (is_ipv6)
		return address[0] || address[1] || address[2] || address[3];
	return address[0] & MCR_NETWORK32(0xff000000);
}

/* Whether there is room for the message of one more send, whatever it is. */
bool mcr_message_has_room(const struct mcr_handful *handful);

/* The message of a send to an output by a UDP socket. `to`, `options` and the send have to outlast it. */
struct msghdr mcr_message_datagrams(const struct mcr_send *send, const struct mcr_output *output, union mcr_sent_to *to,
				    union mcr_message_options *options);

/* Make the message of the send that stands behind the others, which then is one of them. */
void mcr_message_add(struct mcr_handful *handful, const struct mcr_rules *rules, const struct mcr_egress *egress);

#endif
