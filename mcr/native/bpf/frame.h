/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the eBPF programs have in common: the kernel's functions, what the loader fills in, and how a frame is read.
 *
 * For kernels from 5.10 on. A socket filter may not read packets by pointer, so headers are copied to the stack.
 */
#ifndef MCR_BPF_FRAME_H
#define MCR_BPF_FRAME_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>

#include <stddef.h>

#include "bpf/abi.h"
#include "flow.h"
#include "parse.h"

#define INLINE static inline __attribute__((always_inline))

/*
 * Keeps clang from what it would make of this value by all that it knows: the verifier knows less, that of older kernels
 * least, and it goes by the very register that is compared or added to. volatile: here, whatever follows.
 */
#define OPAQUE(value) __asm__ volatile("" : "+r"(value))

#define VLAN_ID 0x0fff /* in a tag's control information */

#define MULTICAST  MCR_NETWORK32(0xe0000000) /* addresses of groups begin so */
#define CLASS_MASK MCR_NETWORK32(0xf0000000)

/*
 * What the loader fills in, by name (load.c): a map's descriptor, and a number that is the same for as long as the
 * program runs. The compiler takes a number for an address; weak, as it may be 0. What a number excludes the loader leaves
 * out (trim.c).
 */
#define MAP(name)        extern char map_##name[]
#define PARAMETER(name)  extern const char parameter_##name[] __attribute__((weak))
#define VALUE(parameter) ((uint64_t)parameter_##parameter)

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_skb_load_bytes)(const void *skb, uint32_t offset, void *to,
					uint32_t size) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const bpf_skb_load_bytes_relative)(const void *skb, uint32_t offset, void *to, uint32_t size,
						 uint32_t from) = (void *)BPF_FUNC_skb_load_bytes_relative;

/*
 * Calls a function for each number below `count`, until it gives 1. Linux 5.17. An ordinary loop has no end for a processor
 * that guesses its condition wrongly, and without CAP_PERFMON the verifier of Linux 6.12 follows that.
 */
static long (*const bpf_loop)(uint32_t count, void *function, void *context, uint64_t flags) = (void *)BPF_FUNC_loop;

#define IP_AND_UDP (sizeof(struct mcr_ipv4) + sizeof(struct mcr_udp)) /* bytes of headers, without options */

#define IPV6_AND_UDP (sizeof(struct mcr_ipv6) + sizeof(struct mcr_udp)) /* likewise */

#define OPENING  (IP_AND_UDP + MCR_BPF_KEPT_PLAIN)
#define OPENING6 (IPV6_AND_UDP + MCR_BPF_KEPT_PLAIN)

/* Several processors may add at the same time. */
INLINE void add_shared(uint64_t *sum, uint64_t value)
{
	__sync_fetch_and_add(sum, value);
}

/* UDP's header stands right behind that of IP in most packets: those get both by one call. */
struct headers {
	struct mcr_ipv4 ip;
	struct mcr_udp_ports ports;
	uint16_t udp_length; /* if there are no IP options */
	uint16_t udp_checksum;
} __attribute__((aligned(8)));

#define PORTS_END  offsetof(struct headers, udp_length)
#define PORTS6_END offsetof(struct headers6, udp.length)

/* And the first bytes of the payload behind them, MCR_BPF_KEPT_PLAIN of them. */
struct opening {
	struct headers headers;
	uint8_t rest[OPENING - sizeof(struct headers)];
} __attribute__((aligned(8)));

/* The same of IPv6, without extension headers. */
struct headers6 {
	struct mcr_ipv6 ip;
	struct mcr_udp udp;
} __attribute__((packed, aligned(8)));

struct opening6 {
	struct headers6 headers;
	uint8_t payload[MCR_BPF_KEPT_PLAIN];
} __attribute__((aligned(8)));

enum verdict {
	REJECT,  /* not for a worker */
	ACCEPT,  /* for a worker, which says what is wrong with it */
	LOOK_UP, /* its flow can be told */
	PART,    /* a fragment: its flow can be told, but for the port */
};

PARAMETER(bare); /* whether packets begin with their IP header: those of tunnels */

/*
 * Copy bytes of the packet, counted from its IP header. 0, or negative if they aren't there. The first helper doesn't see
 * what lies in the packet's page fragments, as may a long one's headers; the other one does, and counts from the link
 * layer's header: Ethernet's, if there is one.
 */
INLINE long fetch(struct __sk_buff *skb, uint32_t offset, void *to, uint32_t size)
{
	if (!bpf_skb_load_bytes_relative(skb, offset, to, size, BPF_HDR_START_NET))
		return 0;
	return bpf_skb_load_bytes(skb, (VALUE(bare) ? 0 : ETH_HLEN) + offset, to, size);
}

/* The kernel has taken the outermost tag out. One of VLAN 0 bears but a priority (IEEE 802.1Q, 6.9), and is none. */
INLINE uint16_t vlan_of(const struct __sk_buff *skb)
{
	return skb->vlan_present ? (uint16_t)(skb->vlan_tci & VLAN_ID) : 0;
}

/* Whether UDP stands behind one more tag; in IPv6, right behind IP's header. */
INLINE bool is_tagged_again(struct __sk_buff *skb)
{
	struct {
		uint16_t tag;
		uint16_t protocol;
		struct mcr_ipv4 ip;
	} inner;

	if (skb->protocol != MCR_NETWORK16(ETH_P_8021Q) && skb->protocol != MCR_NETWORK16(ETH_P_8021AD))
		return false;
	if (fetch(skb, 0, &inner, sizeof(inner)))
		return false;
	if (inner.protocol == MCR_NETWORK16(ETH_P_IPV6))
		return ((const uint8_t *)&inner.ip)[offsetof(struct mcr_ipv6, next)] == IPPROTO_UDP;
	return inner.protocol == MCR_NETWORK16(ETH_P_IP) && inner.ip.protocol == IPPROTO_UDP;
}

INLINE bool is_ipv6(const struct __sk_buff *skb)
{
	return skb->protocol == MCR_NETWORK16(ETH_P_IPV6);
}

/*
 * Copy the headers, without ports where there are none. Whether there is one of IP. `opening`: they are those of an opening,
 * which is copied by the same call.
 */
INLINE bool fetch_headers(struct __sk_buff *skb, struct headers *headers, bool opening, bool *has_ports)
{
	*has_ports = (opening && !fetch(skb, 0, headers, OPENING)) || !fetch(skb, 0, headers, IP_AND_UDP) ||
		     !fetch(skb, 0, headers, PORTS_END);
	return *has_ports || !fetch(skb, 0, &headers->ip, sizeof(headers->ip));
}

/* IPv4 UDP that this machine did not send, with its headers and its flow. `opening`: as fetch_headers has it. */
INLINE enum verdict read_frame(struct __sk_buff *skb, struct headers *headers, bool opening, struct mcr_flow *flow,
			       uint16_t capture)
{
	uint32_t size;
	bool has_ports;

	if (skb->pkt_type == PACKET_OUTGOING)
		return REJECT;
	if (skb->protocol != MCR_NETWORK16(ETH_P_IP))
		return is_tagged_again(skb) ? ACCEPT : REJECT;
	if (!fetch_headers(skb, headers, opening, &has_ports) || headers->ip.protocol != IPPROTO_UDP)
		return REJECT;
	if (mcr_parse_ipv4(&headers->ip, &size))
		return ACCEPT;
	if (size > sizeof(headers->ip))
		has_ports = !fetch(skb, size, &headers->ports, sizeof(headers->ports));
	*flow = mcr_flow_ipv4(capture, vlan_of(skb), 0, headers->ip.destination, 0);
	if (mcr_is_fragment(&headers->ip))
		return PART;
	if (!has_ports)
		return ACCEPT;
	flow->port = headers->ports.destination;
	return LOOK_UP;
}

/*
 * IPv6 UDP that this machine did not send, with its whole flow. What stands behind extension headers is read apart:
 * there is little of it, and each of them would cost as much as all the rest here.
 */
INLINE enum verdict read_ipv6(struct __sk_buff *skb, struct headers6 *headers, bool opening, struct mcr_flow *flow,
			      uint16_t capture)
{
	if (skb->pkt_type == PACKET_OUTGOING)
		return REJECT;
	if ((!opening || fetch(skb, 0, headers, OPENING6)) && fetch(skb, 0, headers, IPV6_AND_UDP) &&
	    fetch(skb, 0, headers, PORTS6_END))
		return ACCEPT;
	if (!mcr_is_ipv6(&headers->ip))
		return REJECT;
	if (headers->ip.next != IPPROTO_UDP)
		return mcr_is_extension(headers->ip.next) ? ACCEPT : REJECT;
	*flow = mcr_flow_ipv6(capture, vlan_of(skb), 0, headers->ip.destination, headers->udp.ports.destination);
	return LOOK_UP;
}

/*
 * What stands behind extension headers: a fragment that may be one of UDP, or whatever a worker will find. `udp`: where UDP's
 * header is, in bytes from IP's, if it is there.
 */
INLINE enum verdict read_extensions(struct __sk_buff *skb, uint8_t next, uint32_t *udp)
{
	uint32_t at = sizeof(struct mcr_ipv6);
	bool part = false;

#pragma clang loop unroll(full)
	for (int i = 0; i < MCR_IPV6_EXTENSIONS; i++) {
		struct mcr_extension header;

		if (!mcr_is_extension(next) || fetch(skb, at, &header, sizeof(header)))
			return ACCEPT;
		if (mcr_is_ipv6_fragment(next, &header)) {
			if (!mcr_is_first_fragment(&header))
				return mcr_may_be_udp(&header) ? PART : REJECT;
			part = true;
		}
		at += mcr_extension_bytes(next, &header);
		next = header.next;
		if (next == IPPROTO_UDP) {
			*udp = at;
			return part ? PART : ACCEPT;
		}
	}
	return ACCEPT;
}

#endif
