/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The kernel path of IPv6, as relay.h has that of IPv4. There is no checksum but UDP's, which no datagram is without, and
 * the flow label is 0, as that of a worker's sockets (mcr/net/egress.py).
 */
#ifndef MCR_BPF_RELAY6_H
#define MCR_BPF_RELAY6_H

#include "bpf/relay.h"

#define FRAME6_HEADERS 62 /* bytes, of Ethernet, IPv6 and UDP */
#define REWRITTEN6     58 /* of them; the UDP length and checksum stay where they are */
#define UDP6_AT        54
#define CHECKSUM6_AT   60
#define ADDRESSES      32
#define VERSION6       0x60000000 /* and neither traffic class nor flow label */
#define SERVICE_SHIFT  20
#define GROUP6         0xff /* first byte of a group's address */

MAP(forwards6);
PARAMETER(ipv6); /* whether the kernel path takes IPv6 */

static int64_t (*const bpf_csum_update)(struct __sk_buff *skb, uint32_t sum) = (void *)BPF_FUNC_csum_update;

/* The headers of a packet, as they are or are to be. */
struct frame6 {
	uint16_t padding; /* so that the addresses are aligned */
	uint8_t macs[2 * ETH_ALEN];
	uint16_t type;
	struct mcr_ipv6 ip;
	struct mcr_udp udp;
} __attribute__((packed, aligned(8)));

/* What an output may keep of the headers that a packet came with. */
struct marks6 {
	uint32_t source[4];
	uint16_t port; /* of the source */
	uint8_t hops;
	uint8_t service;
};

INLINE bool is_udp6_sum_right(struct __sk_buff *skb, const struct frame6 *frame)
{
	const uint32_t *words = (const void *)frame->ip.source;
	uint64_t pseudo = (uint64_t)MCR_NETWORK16(IPPROTO_UDP) + frame->udp.length;

	for (uint32_t i = 0; i < ADDRESSES / sizeof(*words); i++)
		pseudo += words[i];
	return is_sum_right(skb, &frame->udp, UDP6_AT, pseudo);
}

/*
 * Give the packet other headers. 0, or negative: they can't be changed, as the first write finds. UDP's checksum follows.
 * What makes up for other addresses there does so in the sum that a card may have told of the whole packet, too;
 * bpf_l4_csum_replace takes that for the work of IPv4's own checksum, and so it is told of all that changes.
 */
INLINE long rewrite6(struct __sk_buff *skb, const struct frame6 *now, const struct frame6 *next)
{
	uint64_t change = change_of(now->ip.source, next->ip.source, ADDRESSES / sizeof(uint32_t));

	if (bpf_l4_csum_replace(skb, CHECKSUM6_AT, 0, change, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0))
		return -ENOMEM;
	bpf_l4_csum_replace(skb, CHECKSUM6_AT, ports_of(&now->udp.ports), ports_of(&next->udp.ports),
			    BPF_F_MARK_MANGLED_0 | sizeof(next->udp.ports));
	change += change_of(&now->ip, &next->ip, (sizeof(now->ip) - ADDRESSES) / sizeof(uint32_t));
	bpf_csum_update(skb, (uint32_t)(change + (change >> 32)));
	return bpf_skb_store_bytes(skb, 0, next->macs, REWRITTEN6, 0);
}

/* The marks that an output gives its datagrams, as a worker's plan has it (plan.c). A hop limit of 0: they may not leave. */
INLINE struct marks6 marks_for6(const struct mcr_bpf_output6 *to, const struct marks6 *came)
{
	uint32_t keeps = to->keeps, less = came->hops - either(came->hops, 1, 0);
	struct marks6 marks = {
		.port = (uint16_t)either(keeps & MCR_KEEP_PORT, came->port, to->source_port),
		.hops = (uint8_t)either(keeps & MCR_DECREMENT_TTL, less,
					either(keeps & MCR_KEEP_TTL, came->hops, to->hops)),
		.service = (uint8_t)either(keeps & MCR_KEEP_SERVICE, came->service, to->service),
	};

	__builtin_memcpy(marks.source, keeps & MCR_KEEP_SOURCE ? came->source : to->source, sizeof(marks.source));
	return marks;
}

/* Give the packet the headers of an output. `now`: those that it has. 0, or negative: they can't be changed. */
INLINE long readdress6(struct __sk_buff *skb, struct frame6 *now, const struct mcr_bpf_output6 *to,
		       const struct marks6 *marks)
{
	struct frame6 next = *now;

	__builtin_memcpy(next.macs, to->macs, sizeof(next.macs));
	next.ip.class = MCR_NETWORK32(VERSION6 | (uint32_t)marks->service << SERVICE_SHIFT);
	next.ip.hops = marks->hops;
	__builtin_memcpy(next.ip.source, marks->source, sizeof(next.ip.source));
	__builtin_memcpy(next.ip.destination, to->group, sizeof(next.ip.destination));
	next.udp.ports.source = marks->port;
	next.udp.ports.destination = to->port;
	if (rewrite6(skb, now, &next))
		return -ENOMEM;
	*now = next;
	return 0;
}

/* Send a clone to an output, and give what becomes of it. */
INLINE uint32_t send6(struct __sk_buff *skb, struct frame6 *now, const struct mcr_bpf_output6 *to,
		      const struct marks6 *came)
{
	struct marks6 marks = marks_for6(to, came);

	if (!to->interface)
		return ENETDOWN; /* bpf_clone_redirect would call it sent */
	if (!marks.hops)
		return ETIME;
	if (!(marks.source[0] | marks.source[1] | marks.source[2] | marks.source[3]))
		return EADDRNOTAVAIL;
	if (readdress6(skb, now, to, &marks))
		return ENOMEM;
	return send_clone(skb, to->interface);
}

/* A packet that is sent to all outputs of its rule. */
struct sending6 {
	struct __sk_buff *skb;
	const struct mcr_bpf_rule6 *rule;
	struct mcr_bpf_taken *taken;
	struct frame6 now; /* the headers that it has */
	struct marks6 came;
	uint32_t datagrams;
	uint32_t bytes;
	uint32_t failed; /* its tag can't be taken off */
};

static long send_to6(uint64_t i, struct sending6 *sending)
{
	const struct mcr_bpf_output6 *to = &sending->rule->outputs[i & (MCR_BPF_OUTPUTS - 1)];
	uint32_t error = sending->failed;

	if (!error)
		error = send6(sending->skb, &sending->now, to, &sending->came);
	count_output(to->slot, error, sending->datagrams, sending->bytes, sending->taken);
	return 0;
}

INLINE void forward6(struct sending6 *sending)
{
	const struct frame6 *now = &sending->now;

	sending->bytes = MCR_NETWORK16(now->udp.length) - sizeof(now->udp);
	sending->came = (struct marks6){
		.port = now->udp.ports.source,
		.hops = now->ip.hops,
		.service = (uint8_t)(MCR_NETWORK32(now->ip.class) >> SERVICE_SHIFT),
	};
	__builtin_memcpy(sending->came.source, now->ip.source, sizeof(sending->came.source));
	bpf_loop(sending->rule->head.count, send_to6, sending, 0);
}

/* Whether IP has no use for it. */
INLINE bool is_useless6(struct __sk_buff *skb, const struct frame6 *frame)
{
	struct bpf_sock_tuple tuple;

	__builtin_memcpy(tuple.ipv6.saddr, frame->ip.source, sizeof(tuple.ipv6.saddr));
	__builtin_memcpy(tuple.ipv6.daddr, frame->ip.destination, sizeof(tuple.ipv6.daddr));
	tuple.ipv6.sport = frame->udp.ports.source;
	tuple.ipv6.dport = frame->udp.ports.destination;
	return is_nobodys(skb, &tuple, sizeof(tuple.ipv6), *(const uint8_t *)frame->ip.destination == GROUP6);
}

/* What becomes of the packet itself. `now`: the headers that it has. */
INLINE int let_go6(struct __sk_buff *skb, const struct frame6 *original, const struct frame6 *now, struct tag tag,
		   bool is_sole)
{
	bool useless = is_useless6(skb, original);

	if (useless && is_sole)
		return TCX_DROP;
	rewrite6(skb, now, original);
	return leave_alone(skb, tag, useless);
}

/* Forward it by its rule. */
INLINE int relay_by6(struct __sk_buff *skb, const struct mcr_bpf_rule6 *rule, const struct frame6 *original,
		     const struct mcr_bpf_hand *hand, struct mcr_bpf_taken *taken)
{
	uint32_t size = ETH_HLEN + (uint32_t)sizeof(original->ip) + MCR_NETWORK16(original->ip.payload);
	bool is_sole = hand->sole; /* a clone may come back in, and what is decided of it is handed on likewise */
	struct sending6 sending = {
		.skb = skb, .rule = rule, .taken = taken, .now = *original, .datagrams = hand->datagrams
	};
	struct tag tag = tag_of(skb);

	if (!is_udp6_sum_right(skb, original)) {
		taken->checksum += sending.datagrams;
		return TCX_NEXT;
	}
	if (skb->len > size) /* what Ethernet has filled a short frame up with */
		bpf_skb_change_tail(skb, size, 0);
	count_matched(&rule->head, sending.datagrams, taken);
	sending.failed = untag(skb, tag);
	forward6(&sending);
	return sending.failed ? TCX_NEXT : let_go6(skb, original, &sending.now, tag, is_sole);
}

/* As the filter has found it: from its source if a rule names that. */
INLINE struct mcr_flow flow_of6(const struct __sk_buff *skb, const struct frame6 *frame,
				const struct mcr_bpf_hand *hand)
{
	uint32_t source[4];

	for (uint32_t i = 0; i < 4; i++)
		source[i] = either(hand->source, frame->ip.source[i], 0);
	return mcr_flow_ipv6((uint16_t)hand->capture, vlan_of(skb), source, frame->ip.destination,
			     frame->udp.ports.destination);
}

/* Forward a datagram, or a super-frame, that the filter has found to be plain. What is to become of the packet itself. */
INLINE int relay6(struct __sk_buff *skb, struct mcr_bpf_hand *hand)
{
	struct frame6 original = {}; /* all of it: without CAP_PERFMON no byte may be copied that was not written */
	const struct mcr_bpf_rule6 *rule;
	struct mcr_bpf_taken *taken;
	uint32_t capture = hand->capture;
	struct mcr_flow flow;

	if (hand->interface != skb->ifindex || bpf_skb_load_bytes(skb, 0, original.macs, FRAME6_HEADERS) ||
	    hand->group != original.ip.destination[3] || hand->ports != ports_of(&original.udp.ports)) {
		count_lost(hand);
		return TCX_NEXT;
	}
	hand->path = PATH_NONE;
	flow = flow_of6(skb, &original, hand);
	rule = bpf_map_lookup_elem(map_forwards6, &flow);
	taken = bpf_map_lookup_elem(map_taken, &capture);
	if (rule && taken)
		return relay_by6(skb, rule, &original, hand, taken);
	count_unmatched(capture, hand->datagrams);
	return TCX_NEXT;
}

#endif
