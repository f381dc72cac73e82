// SPDX-License-Identifier: MIT
#include "sanity.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "checksum.h"
#include "parse.h"

#define LINK_LOCAL 0xe0000000u /* 224.0.0.0/24: a host without an address may send there, and nowhere else */

/* As the kernel's ip_mc_validate_source(). */
static bool is_impossible(uint32_t source, uint32_t group)
{
	source = ntohl(source);
	if (source >> 24 == 0)
		return (ntohl(group) & 0xffffff00u) != LINK_LOCAL;
	return source >> 24 == IN_LOOPBACKNET || IN_MULTICAST(source) || source == INADDR_BROADCAST;
}

/* What was sent over the loopback interface bears this machine's addresses by right. */
static enum mcr_cause check_source(const struct mcr_frame *frame, const struct mcr_packet *packet,
				   const struct mcr_own *own)
{
	enum mcr_cause cause;

	if (frame->loopback)
		return MCR_CAUSE_NONE;
	if (is_impossible(packet->source, packet->group))
		return MCR_CAUSE_SOURCE;
	cause = mcr_own_find(own, mcr_own_address(packet->source));
	if (cause == MCR_CAUSE_NONE && frame->mac)
		cause = mcr_own_find(own, frame->mac);
	return cause;
}

enum mcr_cause mcr_sanity_check(const struct mcr_frame *frame, const struct mcr_packet *packet,
				const struct mcr_own *own)
{
	const uint8_t *ip = frame->data + frame->network, *udp = frame->data + packet->payload - sizeof(struct mcr_udp);
	enum mcr_cause cause;

	if (frame->elsewhere)
		return MCR_CAUSE_OTHER_HOST;
	if (!mcr_checksum_ip(ip, (uint32_t)(udp - ip)))
		return MCR_CAUSE_CHECKSUM;
	cause = check_source(frame, packet, own);
	if (cause != MCR_CAUSE_NONE || frame->vouched)
		return cause;
	return mcr_checksum_udp(udp, sizeof(struct mcr_udp) + packet->payload_size, packet->source, packet->group)
		       ? MCR_CAUSE_NONE
		       : MCR_CAUSE_CHECKSUM;
}
