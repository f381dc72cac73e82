// SPDX-License-Identifier: MIT
#include "packet.h"

#include <arpa/inet.h>
#include <errno.h>

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
	if (mcr_is_fragment(ip))
		return -EOPNOTSUPP;
	if (*total > left)
		return -EMSGSIZE;
	return 0;
}

int mcr_packet_parse(const uint8_t *frame, uint32_t size, uint32_t network, struct mcr_packet *packet)
{
	uint32_t header, total, udp_length;
	const struct mcr_ipv4 *ip;
	const struct mcr_udp *udp;
	int ret;

	if (network > size)
		return -EBADMSG;
	ret = parse_ip(frame + network, size - network, &header, &total);
	if (ret)
		return ret;
	if (total - header < sizeof(*udp))
		return -EBADMSG;
	ip = (const struct mcr_ipv4 *)(frame + network);
	udp = (const struct mcr_udp *)(frame + network + header);
	udp_length = ntohs(udp->length);
	if (udp_length < sizeof(*udp) || udp_length > total - header)
		return -EBADMSG;

	packet->source = ip->source;
	packet->group = ip->destination;
	packet->port = udp->ports.destination;
	packet->ttl = ip->ttl;
	packet->service = ip->service;
	packet->payload = network + header + (uint32_t)sizeof(*udp);
	packet->payload_size = udp_length - (uint32_t)sizeof(*udp);
	return 0;
}
