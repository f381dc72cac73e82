// SPDX-License-Identifier: MIT
// Parses IPv4 and UDP headers (RFC 791, RFC 768).
#include "packet.h"

#include <errno.h>
#include <string.h>

#define IPV4_MIN      20
#define UDP_HEADER    8
#define PROTO_UDP     17
#define FRAGMENT_BITS 0x3fff /* more-fragments flag and offset */

static uint16_t load16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static int parse_ip(const uint8_t *ip, uint32_t left, uint32_t *header, uint32_t *total)
{
	if (left < IPV4_MIN)
		return -EMSGSIZE;
	if (ip[0] >> 4 != 4 || ip[9] != PROTO_UDP)
		return -EPROTONOSUPPORT;
	*header = (ip[0] & 15u) * 4;
	*total = load16(ip + 2);
	if (*header < IPV4_MIN || *total < *header)
		return -EBADMSG;
	if (load16(ip + 6) & FRAGMENT_BITS)
		return -EOPNOTSUPP;
	if (*total > left)
		return -EMSGSIZE;
	return 0;
}

int mcr_packet_parse(const uint8_t *frame, uint32_t size, uint32_t network, struct mcr_packet *packet)
{
	uint32_t header, total, udp_length;
	const uint8_t *ip, *udp;
	int ret;

	if (network > size)
		return -EBADMSG;
	ip = frame + network;
	ret = parse_ip(ip, size - network, &header, &total);
	if (ret)
		return ret;
	if (total - header < UDP_HEADER)
		return -EBADMSG;
	udp = ip + header;
	udp_length = load16(udp + 4);
	if (udp_length < UDP_HEADER || udp_length > total - header)
		return -EBADMSG;

	memcpy(&packet->source, ip + 12, 4);
	memcpy(&packet->group, ip + 16, 4);
	memcpy(&packet->port, udp + 2, 2);
	packet->payload = network + header + UDP_HEADER;
	packet->payload_size = udp_length - UDP_HEADER;
	return 0;
}
