/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The headers of IPv4 (RFC 791) and UDP (RFC 768), and what can be told from each by itself. Compiled into the worker,
 * which has whole frames (packet.c), and into the eBPF programs, which have copies of the headers (bpf/). No function
 * reads beyond the struct that it is given. The fields are in network byte order, and may lie at any address.
 */
#ifndef MCR_PARSE_H
#define MCR_PARSE_H

#include <linux/errno.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __bpf__
#include <linux/in.h>
#else
#include <netinet/in.h> /* the two exclude each other */
#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define MCR_NETWORK16(number) ((uint16_t)((number) >> 8 | ((number) & 0xff) << 8))
#define MCR_NETWORK32(number) __builtin_bswap32(number)
#else
#define MCR_NETWORK16(number) ((uint16_t)(number))
#define MCR_NETWORK32(number) ((uint32_t)(number))
#endif

#define MCR_IPV4_FRAGMENT 0x3fff /* more-fragments flag and offset */

struct mcr_ipv4 {
	uint8_t version_size; /* version, and the header's length in words of 4 bytes */
	uint8_t service;
	uint16_t total;
	uint16_t id;
	uint16_t fragment;
	uint8_t ttl;
	uint8_t protocol;
	uint16_t checksum;
	uint32_t source;
	uint32_t destination;
} __attribute__((packed));

struct mcr_udp_ports {
	uint16_t source;
	uint16_t destination;
} __attribute__((packed));

struct mcr_udp {
	struct mcr_udp_ports ports;
	uint16_t length;
	uint16_t checksum;
} __attribute__((packed));

_Static_assert(sizeof(struct mcr_ipv4) == 20, "IPv4 header");
_Static_assert(sizeof(struct mcr_udp) == 8, "UDP header");

/*
 * The length of a UDP datagram's IP header, options included: 20 to 60 bytes. 0, or
 *   -EPROTONOSUPPORT  neither IPv4 nor UDP
 *   -EBADMSG          shorter than any header
 */
static inline __attribute__((always_inline)) int mcr_parse_ipv4(const struct mcr_ipv4 *ip, uint32_t *size)
{
	if (ip->version_size >> 4 != 4 || ip->protocol != IPPROTO_UDP)
		return -EPROTONOSUPPORT;
	*size = (ip->version_size & 15u) * 4;
	return *size < sizeof(*ip) ? -EBADMSG : 0;
}

static inline __attribute__((always_inline)) bool mcr_is_fragment(const struct mcr_ipv4 *ip)
{
	return ip->fragment & MCR_NETWORK16(MCR_IPV4_FRAGMENT);
}

#endif
