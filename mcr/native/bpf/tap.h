/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Tells of the datagrams of streams whose health is watched: when each came, and its first bytes, or those of each packet
 * of a transport stream. Whoever reads that analyses it (health/tap.h). A full ring is a gap in what is told, which the
 * count shows; packets are not held up by it.
 */
#ifndef MCR_BPF_TAP_H
#define MCR_BPF_TAP_H

#include "bpf/frame.h"

MAP(watched);
MAP(streams);
MAP(ring);
MAP(media);
PARAMETER(health); /* whether any stream is watched */

#define TS_PACKET   188
#define TS_SYNC     0x47
#define TS_STARTS   0x40 /* payload_unit_start_indicator, in the second byte */
#define TS_FIELD    0x20 /* an adaptation field, in the fourth */
#define TS_HEADER   4
#define TS_PID_HIGH 0x1f /* the upper bits of the PID, in the second byte */
#define BEGIN_MASK  511
#define PMT_ID      2
#define RTP_HEADER  12
#define RTP_PLAIN   0x80 /* version 2; neither padding, extension nor sources */

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

struct seen_brief {
	struct mcr_bpf_seen seen;
	struct mcr_bpf_brief brief;
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

/*
 * A number that says where something is. Without CAP_PERFMON the verifier wants it to be of one range wherever it came
 * from, so it is read from memory.
 */
INLINE uint32_t place(volatile uint32_t *at, uint32_t value, uint32_t mask)
{
	*at = value;
	return *at & mask;
}

/*
 * Whether its first bytes are all that matters of a packet: neither PAT nor PMT begins in it. A table that does not begin
 * right at the start of the payload may be one; what begins with 0 and 0 is media.
 */
INLINE bool is_brief(struct mcr_bpf_media *media, uint32_t at)
{
	const uint8_t *packet = media->bytes + at;
	uint32_t begin = TS_HEADER;

	if (packet[0] != TS_SYNC)
		return false;
	if (!(packet[1] & TS_STARTS))
		return true;
	if (!(packet[1] & TS_PID_HIGH) && !packet[2])
		return false;
	if (packet[3] & TS_FIELD)
		begin += 1u + packet[TS_HEADER];
	packet += place(&media->begin, begin, BEGIN_MASK);
	return !packet[0] && packet[1] != PMT_ID;
}

INLINE void abridge(struct mcr_bpf_brief *brief, const struct mcr_bpf_media *media, uint32_t at, uint32_t count)
{
	for (uint32_t i = 0; i < MCR_BPF_BRIEF_PACKETS; i++) {
		const uint32_t *packet = (const void *)(media->bytes + at + i * TS_PACKET);

		if (i >= count)
			break;
		brief->packets[i][0] = packet[0];
		brief->packets[i][1] = packet[1];
		brief->packets[i][2] = packet[2];
	}
	for (uint32_t i = 0; i < MCR_BPF_BRIEF_WORDS; i++)
		brief->rtp[i] = ((const uint32_t *)(const void *)media->bytes)[i];
}

/* How many packets there are, if it is no more than what is kept: without a division. */
INLINE uint32_t packets_in(uint32_t size)
{
	return size * 349u >> 16;
}

/* Tell of the packets of a transport stream by their first bytes. False: that would not do. */
INLINE bool tell_brief(struct __sk_buff *skb, uint32_t offset, struct mcr_bpf_seen seen)
{
	uint32_t count = packets_in(seen.size), header = seen.size - count * TS_PACKET, index = 0, at;
	struct mcr_bpf_media *media = bpf_map_lookup_elem(map_media, &index);
	struct seen_brief *record;

	if (!media || !count || count > MCR_BPF_BRIEF_PACKETS || (header && header != RTP_HEADER) ||
	    !copy(skb, offset, media->bytes, seen.size, MCR_BPF_KEPT))
		return false;
	if (header && media->bytes[0] != RTP_PLAIN)
		return false;
	at = place(&media->at, header, RTP_HEADER);
	for (uint32_t i = 0; i < MCR_BPF_BRIEF_PACKETS && i < count; i++)
		if (!is_brief(media, at + i * TS_PACKET))
			return false;
	record = bpf_ringbuf_reserve(map_ring, sizeof(*record), 0);
	if (!record)
		return true;
	seen.kept = MCR_BPF_BRIEF;
	record->seen = seen;
	abridge(&record->brief, media, at, count);
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return true;
}

INLINE uint32_t payload_at(const struct mcr_ipv4 *ip)
{
	return 4u * (ip->version_size & 15) + (uint32_t)sizeof(struct mcr_udp);
}

/* What the stream's analyser needs of a datagram. */
INLINE void tell_bytes(struct __sk_buff *skb, const struct mcr_bpf_stream *stream, uint32_t offset,
		       struct mcr_bpf_seen seen)
{
	if (stream->keep == MCR_BPF_KEPT_HEAD)
		tell_head(skb, offset, seen);
	else
		tell_whole(skb, offset, seen);
}

#define TOLD 64 /* datagrams of a super-frame: the verifier walks through each */

/* Each datagram of a super-frame: not in brief, as the verifier would take seconds. */
INLINE void tell_all(struct __sk_buff *skb, struct mcr_bpf_stream *stream, uint32_t offset, struct mcr_bpf_seen seen,
		     uint32_t size)
{
	uint32_t step = skb->gso_size, at = 0;

	for (uint32_t i = 0; i < TOLD; i++) {
		seen.count = ++stream->count;
		seen.size = (uint16_t)(size - at < step ? size - at : step);
		tell_bytes(skb, stream, offset + at, seen);
		at += step;
		if (at >= size)
			return;
	}
	stream->count += (size - at - 1) / step + 1; /* which shows that they were not told of */
}

/* Tell of each datagram in a frame, if its flow is watched. `begin`: of its payload; `total`: bytes of IP. */
INLINE void tell(struct __sk_buff *skb, const struct mcr_flow *flow, uint32_t begin, uint32_t total)
{
	const uint32_t *number = bpf_map_lookup_elem(map_watched, flow);
	struct mcr_bpf_stream *stream = number ? bpf_map_lookup_elem(map_streams, number) : 0;
	uint32_t size = total - begin;
	struct mcr_bpf_seen seen = {};

	if (!stream || size > 0xffff)
		return;
	seen.time = bpf_ktime_get_ns();
	seen.stream = *number;
	if (skb->gso_size && skb->gso_size < size) {
		tell_all(skb, stream, begin, seen, size);
		return;
	}
	seen.count = ++stream->count;
	seen.size = (uint16_t)size;
	if (stream->keep == MCR_BPF_KEPT_HEAD || !tell_brief(skb, begin, seen))
		tell_bytes(skb, stream, begin, seen);
}

#endif
