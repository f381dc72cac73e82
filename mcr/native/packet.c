// SPDX-License-Identifier: MIT
#include "packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "flow.h"
#include "parse.h"

static int parse_ip(const uint8_t *data, uint32_t left, uint32_t *header, uint32_t *total)
{
	const struct mcr_ipv4 *ip = (const struct mcr_ipv4 *)data;
	int ret;

	if (left < sizeof(*ip))
		return -EMSGSIZE;
	ret = mcr_parse_ipv4(ip, header);
	if (ret)
		return ret;
	*total = ntohs(ip->total);
	if (*total < *header)
		return -EBADMSG;
	if (*total > left)
		return -EMSGSIZE;
	return mcr_is_fragment(ip) ? -EOPNOTSUPP : 0;
}

/* Past one extension header of a protocol, at `at`; and the protocol of what follows. */
static int skip_extension(const uint8_t *ip, uint32_t total, uint32_t *at, uint8_t *protocol)
{
	const struct mcr_extension *header = (const struct mcr_extension *)(ip + *at);
	uint32_t size;

	if (!mcr_is_extension(*protocol))
		return -EPROTONOSUPPORT;
	if (total - *at < sizeof(*header))
		return -EBADMSG;
	if (mcr_is_ipv6_fragment(*protocol, header))
		return header->next == IPPROTO_UDP ? -EOPNOTSUPP : -EPROTONOSUPPORT;
	size = mcr_extension_bytes(*protocol, header);
	if (size > total - *at)
		return -EBADMSG;
	*at += size;
	*protocol = header->next;
	return 0;
}

/* Bytes of the IPv6 header and those that follow, up to UDP's, and of the whole datagram. */
static int parse_ipv6(const uint8_t *data, uint32_t left, uint32_t *header, uint32_t *total)
{
	const struct mcr_ipv6 *ip = (const struct mcr_ipv6 *)data;
	uint8_t protocol;
	bool routed = false;
	int ret = 0;

	if (left < sizeof(*ip))
		return -EPROTONOSUPPORT; /* for all that is known */
	protocol = ip->next;
	*header = sizeof(*ip);
	*total = (uint32_t)sizeof(*ip) + ntohs(ip->payload);
	for (int i = 0; i < MCR_IPV6_EXTENSIONS && protocol != IPPROTO_UDP && !ret; i++) {
		routed |= protocol == IPPROTO_ROUTING;
		ret = skip_extension(data, *total < left ? *total : left, header, &protocol);
	}
	if (ret == -EPROTONOSUPPORT || (protocol != IPPROTO_UDP && !mcr_is_extension(protocol)))
		return -EPROTONOSUPPORT; /* also what is cut short: it is not the relay's to count */
	if (*total > left)
		return -EMSGSIZE;
	if (ret)
		return ret;
	return routed || protocol != IPPROTO_UDP ? -EBADMSG : 0;
}

static void note_ipv4(const struct mcr_ipv4 *ip, struct mcr_packet *packet)
{
	packet->family = MCR_FLOW_IPV4;
	packet->source = ip->source;
	packet->group = ip->destination;
	packet->ttl = ip->ttl;
	packet->service = ip->service;
}

static void note_ipv6(const struct mcr_ipv6 *ip, struct mcr_packet *packet)
{
	packet->family = MCR_FLOW_IPV6;
	memcpy(packet->source6, ip->source, sizeof(ip->source));
	memcpy(packet->group6, ip->destination, sizeof(ip->destination));
	packet->ttl = ip->hops;
	packet->service = (uint8_t)(ntohl(ip->class) >> 20);
}

int mcr_packet_parse(const uint8_t *frame, uint32_t size, uint32_t network, struct mcr_packet *packet)
{
	uint32_t header, total, udp_length;
	const struct mcr_udp *udp;
	bool is_ipv6;
	int ret;

	if (network > size)
		return -EBADMSG;
	is_ipv6 = network < size && mcr_is_ipv6((const struct mcr_ipv6 *)(frame + network));
	ret = (is_ipv6 ? parse_ipv6 : parse_ip)(frame + network, size - network, &header, &total);
	if (ret)
		return ret;
	if (total - header < sizeof(*udp))
		return -EBADMSG;
	udp = (const struct mcr_udp *)(frame + network + header);
	udp_length = ntohs(udp->length);
	if (udp_length < sizeof(*udp) || udp_length > total - header)
		return -EBADMSG;

	if (is_ipv6)
		note_ipv6((const struct mcr_ipv6 *)(frame + network), packet);
	else
		note_ipv4((const struct mcr_ipv4 *)(frame + network), packet);
	packet->port = udp->ports.destination;
	packet->source_port = udp->ports.source;
	packet->payload = network + header + (uint32_t)sizeof(*udp);
	packet->payload_size = udp_length - (uint32_t)sizeof(*udp);
	return 0;
}
