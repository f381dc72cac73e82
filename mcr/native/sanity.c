// SPDX-License-Identifier: MIT
#include "sanity.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "checksum.h"
#include "parse.h"

#define LINK_LOCAL 0xe0000000u /* 224.0.0.0/24: a host without an address may send there, and to 255.255.255.255 */

/* As the kernel's ip_mc_validate_source() and ip_route_input_slow(). */
static bool is_impossible(uint32_t source, uint32_t group)
{
	source = ntohl(source);
	if (source >> 24 == 0)
		return (ntohl(group) & 0xffffff00u) != LINK_LOCAL && group != INADDR_BROADCAST;
	return source >> 24 == IN_LOOPBACKNET || IN_MULTICAST(source) || source == INADDR_BROADCAST;
}

static bool is_source_impossible(const struct mcr_packet *packet)
{
	return packet->family == MCR_FLOW_IPV6 ? mcr_is_impossible6(packet->source6, packet->group6)
					       : is_impossible(packet->source, packet->group);
}

static uint64_t own_source(const struct mcr_packet *packet)
{
	return packet->family == MCR_FLOW_IPV6 ? mcr_own_address6(packet->source6) : mcr_own_address(packet->source);
}

/* What was sent over the loopback interface bears this machine's addresses by right. */
static enum mcr_cause check_source(const struct mcr_frame *frame, const struct mcr_packet *packet,
				   const struct mcr_own *own)
{
	enum mcr_cause cause;

	if (frame->loopback)
		return MCR_CAUSE_NONE;
	if (is_source_impossible(packet))
		return MCR_CAUSE_SOURCE;
	cause = mcr_own_find(own, own_source(packet));
	if (cause == MCR_CAUSE_NONE && frame->mac)
		cause = mcr_own_find(own, frame->mac);
	return cause;
}

/* IPv6 has no other checksum. Where somebody vouches for UDP's, there has to be one all the same. */
static bool is_checksum_right(const struct mcr_frame *frame, const struct mcr_packet *packet, const uint8_t *udp)
{
	uint32_t size = (uint32_t)sizeof(struct mcr_udp) + packet->payload_size;

	if (packet->family != MCR_FLOW_IPV6)
		return frame->vouched || mcr_checksum_udp(udp, size, packet->source, packet->group);
	return frame->vouched ? udp[6] || udp[7] : mcr_checksum_udp6(udp, size, packet->source6, packet->group6);
}

enum mcr_cause mcr_sanity_check_header(const struct mcr_frame *frame, const struct mcr_packet *packet,
				       const struct mcr_own *own)
{
	const uint8_t *ip = frame->data + frame->network;

	if (frame->elsewhere)
		return MCR_CAUSE_OTHER_HOST;
	if (packet->family == MCR_FLOW_IPV4 && !mcr_checksum_ip(ip, (*ip & 15u) * 4))
		return MCR_CAUSE_CHECKSUM;
	return check_source(frame, packet, own);
}

enum mcr_cause mcr_sanity_check(const struct mcr_frame *frame, const struct mcr_packet *packet,
				const struct mcr_own *own)
{
	const uint8_t *udp = frame->data + packet->payload - sizeof(struct mcr_udp);
	enum mcr_cause cause = frame->put_together ? MCR_CAUSE_NONE : mcr_sanity_check_header(frame, packet, own);

	if (cause == MCR_CAUSE_NONE && !is_checksum_right(frame, packet, udp))
		cause = MCR_CAUSE_CHECKSUM;
	return cause;
}
