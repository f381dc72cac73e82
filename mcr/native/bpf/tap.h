/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Tells of the datagrams of streams whose health is watched: when each came, and its first bytes. Whoever reads that
 * analyses it (health/tap.h). A full ring is a gap in what is told, which the count shows; packets are not held up by it.
 */
#ifndef MCR_BPF_TAP_H
#define MCR_BPF_TAP_H

#include "bpf/frame.h"

MAP(watched);
MAP(streams);
MAP(ring);
PARAMETER(health); /* whether any stream is watched */

static uint64_t (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static void *(*const bpf_ringbuf_reserve)(void *ring, uint64_t size, uint64_t flags) = (void *)BPF_FUNC_ringbuf_reserve;
static void (*const bpf_ringbuf_submit)(void *record, uint64_t flags) = (void *)BPF_FUNC_ringbuf_submit;

struct seen_head {
	struct mcr_bpf_seen seen;
	uint8_t payload[MCR_BPF_KEPT_HEAD];
};

struct seen_whole {
	struct mcr_bpf_seen seen;
	uint8_t payload[MCR_BPF_KEPT];
};

/* So many bytes of the packet, from its IP header on. 0: they aren't there. */
INLINE uint16_t copy(struct __sk_buff *skb, uint32_t offset, void *to, uint64_t size, uint64_t most)
{
	size = size < most ? size : most;
	asm volatile("" : "+r"(size)); /* the verifier wants to see the bounds of just this register */
	if (!size || size > most)
		return 0;
	return fetch(skb, offset, to, (uint32_t)size) ? 0 : (uint16_t)size;
}

INLINE void tell_head(struct __sk_buff *skb, uint32_t offset, struct mcr_bpf_seen seen)
{
	struct seen_head *record = bpf_ringbuf_reserve(map_ring, sizeof(*record), 0);

	if (!record)
		return;
	record->seen = seen;
	record->seen.kept = copy(skb, offset, record->payload, seen.size, sizeof(record->payload));
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

INLINE void tell_whole(struct __sk_buff *skb, uint32_t offset, struct mcr_bpf_seen seen)
{
	struct seen_whole *record = bpf_ringbuf_reserve(map_ring, sizeof(*record), 0);

	if (!record)
		return;
	record->seen = seen;
	record->seen.kept = copy(skb, offset, record->payload, seen.size, sizeof(record->payload));
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

INLINE uint32_t payload_at(const struct mcr_ipv4 *ip)
{
	return 4u * (ip->version_size & 15) + (uint32_t)sizeof(struct mcr_udp);
}

#define TOLD 64 /* datagrams of a super-frame: the verifier walks through each */

/* Tell of each datagram in a frame, if its flow is watched. `begin`: of its payload; `total`: bytes of IP. */
INLINE void tell(struct __sk_buff *skb, const struct mcr_flow *flow, uint32_t begin, uint32_t total)
{
	const uint32_t *number = bpf_map_lookup_elem(map_watched, flow);
	struct mcr_bpf_stream *stream = number ? bpf_map_lookup_elem(map_streams, number) : 0;
	uint32_t size = total - begin, step = size, at = 0;
	struct mcr_bpf_seen seen = {};

	if (!stream || size > 0xffff)
		return;
	seen.time = bpf_ktime_get_ns();
	seen.stream = *number;
	if (skb->gso_size && skb->gso_size < size)
		step = skb->gso_size;
	for (uint32_t i = 0; i < TOLD; i++) {
		seen.count = ++stream->count;
		seen.size = (uint16_t)(size - at < step ? size - at : step);
		if (stream->keep > MCR_BPF_KEPT_HEAD)
			tell_whole(skb, begin + at, seen);
		else
			tell_head(skb, begin + at, seen);
		at += step;
		if (at >= size)
			return;
	}
	stream->count += (size - at - 1) / step + 1; /* which shows that they were not told of */
}

#endif
