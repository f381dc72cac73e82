/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The headers of IPv4 (RFC 791), IPv6 (RFC 8200) and UDP (RFC 768), and what can be told from each by itself. Compiled
 * into the worker, which has whole frames (packet.c), and into the eBPF programs, which have copies of the headers
 * (bpf/). No function reads beyond the struct that it is given. The fields are in network byte order, and may lie at
 * any address.
 */
#ifndef MCR_PARSE_H
#define MCR_PARSE_H

#include <linux/errno.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __bpf__
#include <linux/in.h>
#include <linux/in6.h>
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
#define MCR_IPV6_FRAGMENT 0xfff9 /* offset and more-fragments flag */
#define MCR_IPV6_OFFSET   0xfff8
#define MCR_IPV6_DROPS    0xc0 /* of an option's type: if one is set, who does not know it drops the datagram */
#define MCR_IPV6_PADN     1    /* an option: padding of two bytes and more; 0 is a single one */
#define MCR_IPV6_PADDING  7    /* bytes in a row, at most: more is never needed to align anything */

#define MCR_IPV6_EXTENSIONS 4 /* headers before UDP's, at most: as RFC 8200, 4.1 has them, but for routing */

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

struct mcr_ipv6 {
	uint32_t class; /* version, traffic class, flow label */
	uint16_t payload;
	uint8_t next; /* protocol of what follows */
	uint8_t hops;
	uint32_t source[4];
	uint32_t destination[4];
} __attribute__((packed));

/* What extension headers begin with. */
struct mcr_extension {
	uint8_t next;
	uint8_t size;      /* in units of 8 bytes, without the first; of AH of 4, without two; fragments have none */
	uint16_t fragment; /* of a fragment header: offset and flags */
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
_Static_assert(sizeof(struct mcr_ipv6) == 40, "IPv6 header");
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

static inline __attribute__((always_inline)) bool mcr_is_ipv6(const struct mcr_ipv6 *ip)
{
	return *(const uint8_t *)ip >> 4 == 6;
}

#define MCR_IPV6_LINK      MCR_NETWORK32(0xff020000) /* groups of the link, whatever their flags */
#define MCR_IPV6_LINK_MASK MCR_NETWORK32(0xff0f0000)

/*
 * Whether nobody can have sent it from there, as the kernel's ip6_rcv_core() has it: from a group, ::1, or an IPv4 address
 * (RFC 4291, 2.5.5.2). From :: a host without an address may send on its link, and nowhere else.
 */
static inline __attribute__((always_inline)) bool mcr_is_impossible6(const uint32_t *source, const uint32_t *group)
{
	if ((source[0] & MCR_NETWORK32(0xff000000)) == MCR_NETWORK32(0xff000000))
		return true;
	if (source[0] || source[1])
		return false;
	if (!source[2] && !source[3])
		return (group[0] & MCR_IPV6_LINK_MASK) != MCR_IPV6_LINK;
	return source[2] == MCR_NETWORK32(0xffff) || (!source[2] && source[3] == MCR_NETWORK32(1));
}

/* Whether UDP's header may stand behind a header of this protocol. */
static inline __attribute__((always_inline)) bool mcr_is_extension(uint8_t protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_AH;
}

/*
 * Whether IP drops a datagram for it, unless there is something that the relay has not: routing to do, or an IPsec key. Options
 * for each hop stand directly behind IPv6's header, and nowhere else (RFC 8200, 4.1).
 */
static inline __attribute__((always_inline)) bool mcr_is_refused_extension(uint8_t protocol, bool is_first)
{
	return protocol == IPPROTO_ROUTING || protocol == IPPROTO_AH || (protocol == IPPROTO_HOPOPTS && !is_first);
}

/* A datagram with a fragment header may be whole all the same (RFC 6946). */
static inline __attribute__((always_inline)) bool mcr_is_ipv6_fragment(uint8_t protocol,
								       const struct mcr_extension *header)
{
	return protocol == IPPROTO_FRAGMENT && header->fragment & MCR_NETWORK16(MCR_IPV6_FRAGMENT);
}

/* Only the first fragment has the headers that follow. */
static inline __attribute__((always_inline)) bool mcr_is_first_fragment(const struct mcr_extension *header)
{
	return !(header->fragment & MCR_NETWORK16(MCR_IPV6_OFFSET));
}

/* Whether a fragment may be one of UDP, by what its own header says of the first one (RFC 8200, 4.5). */
static inline __attribute__((always_inline)) bool mcr_may_be_udp(const struct mcr_extension *header)
{
	return header->next == IPPROTO_UDP || mcr_is_extension(header->next);
}

static inline __attribute__((always_inline)) uint32_t mcr_extension_bytes(uint8_t protocol,
									  const struct mcr_extension *header)
{
	if (protocol == IPPROTO_AH)
		return (header->size + 2u) * 4;
	return protocol == IPPROTO_FRAGMENT ? 8 : (header->size + 1u) * 8;
}

#endif
