/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * One decision for each packet. The capture filter runs before the program at the interface's ingress, for the same packet,
 * on the same processor and with nothing in between. What it decides it hands on in memory of that processor, so a rule may
 * move from one path to the other at any time, and no packet is forwarded twice or not at all.
 */
#ifndef MCR_BPF_HAND_H
#define MCR_BPF_HAND_H

#include "bpf/frame.h"

MAP(gates);
MAP(hand);
MAP(taken);
PARAMETER(relay); /* whether there is a kernel path */

INLINE uint32_t ports_of(const struct mcr_udp_ports *ports)
{
	return ports->source | (uint32_t)ports->destination << 16;
}

INLINE struct mcr_bpf_hand *find_hand(void)
{
	uint32_t index = 0;

	return bpf_map_lookup_elem(map_hand, &index);
}

/*
 * Whoever finds a decision that nobody has carried out knows that another program at the ingress took the packet, or that
 * ours does not run there any more. The workers get what comes next: they see packets before any of these programs.
 */
INLINE void count_lost(struct mcr_bpf_hand *hand)
{
	uint32_t capture = hand->capture;
	struct mcr_bpf_taken *taken = bpf_map_lookup_elem(map_taken, &capture);
	struct mcr_bpf_gate *gate = bpf_map_lookup_elem(map_gates, &capture);

	hand->path = PATH_NONE;
	if (taken && gate && hand->epoch >= gate->first)
		taken->lost += hand->datagrams;
	if (gate && gate->epoch == hand->epoch)
		gate->epoch = 0;
}

/*
 * Datagrams in a frame with so many bytes of IP, of which each has so many of headers. `gso_segs` is 0 where a virtual
 * card, or a socket, sent a super-frame.
 */
INLINE uint32_t datagrams_in(const struct __sk_buff *skb, uint32_t total, uint32_t headers)
{
	uint32_t size = skb->gso_size, payload = total - headers;

	return size && payload > size ? (payload - 1) / size + 1 : 1;
}

#endif
