/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Suppresses local delivery of what rules take: the last that the program at an interface's ingress does with a packet. */
#ifndef MCR_BPF_SUPPRESS_H
#define MCR_BPF_SUPPRESS_H

#include "bpf/frame.h"

MAP(admitted);
MAP(ticks);

static uint64_t (*const bpf_jiffies64)(void) = (void *)BPF_FUNC_jiffies64;
static long (*const bpf_sk_release)(void *sock) = (void *)BPF_FUNC_sk_release;
static struct bpf_sock *(*const bpf_sk_lookup_udp)(void *skb, const struct bpf_sock_tuple *tuple, uint32_t size,
						   uint64_t netns, uint64_t flags) = (void *)BPF_FUNC_sk_lookup_udp;
static long (*const bpf_skb_change_type)(void *skb, uint32_t type) = (void *)BPF_FUNC_skb_change_type;

/*
 * The first packet of each tick is left to IP, on each processor. What IP throws away there is freed after a grace period,
 * and a processor that has something to free keeps its tick. An idle one that has nothing stops it whenever it waits for a
 * packet, and leaving that state costs more than suppressing saves.
 */
INLINE bool is_first_of_tick(void)
{
	uint32_t index = 0;
	uint64_t now = bpf_jiffies64(), before;
	uint64_t *tick = bpf_map_lookup_elem(map_ticks, &index);

	if (!tick) /* never: for the verifier */
		return true;
	before = *tick;
	*tick = now;
	return before != now;
}

/* Who would take a packet of this machine's UDP sockets. A guard holds a port of a rule's, and drops what it gets. */
enum taker { NOBODY, GUARD, RECEIVER };

INLINE enum taker find_taker(struct __sk_buff *skb, const struct bpf_sock_tuple *tuple, uint32_t size)
{
	enum taker taker = NOBODY;
	struct bpf_sock *sock = bpf_sk_lookup_udp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);

	if (sock) {
		taker = sock->mark == MCR_BPF_GUARD ? GUARD : RECEIVER;
		bpf_sk_release(sock);
	}
	return taker;
}

/*
 * Whether IP has no use for a packet that a rule wants. To one that is sent to this machine alone, and that nobody takes, it
 * would answer that the port is unreachable. `tuple`: addresses and ports; its size says which family's.
 */
INLINE bool is_nobodys(struct __sk_buff *skb, const struct bpf_sock_tuple *tuple, uint32_t size, bool is_to_group)
{
	bool is_first = is_first_of_tick();
	enum taker taker;

	if (is_first && is_to_group)
		return false;
	taker = find_taker(skb, tuple, size);
	return taker == NOBODY || (taker == GUARD && !is_first);
}

INLINE bool is_useless(struct __sk_buff *skb, const struct headers *headers)
{
	struct bpf_sock_tuple tuple;

	tuple.ipv4.saddr = headers->ip.source;
	tuple.ipv4.daddr = headers->ip.destination;
	tuple.ipv4.sport = headers->ports.source;
	tuple.ipv4.dport = headers->ports.destination;
	return is_nobodys(skb, &tuple, sizeof(tuple.ipv4), (headers->ip.destination & CLASS_MASK) == MULTICAST);
}

INLINE void suppress(struct __sk_buff *skb)
{
	bpf_skb_change_type(skb, PACKET_OTHERHOST);
}

#endif
