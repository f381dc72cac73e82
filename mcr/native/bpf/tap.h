/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Tells of the datagrams of streams whose health is watched: when each came, and its first bytes, or those of each packet
 * of a transport stream. Whoever reads that analyses it (health/tap.h). Each processor has a ring of its own, so that no
 * lock is taken. A full one is a gap in what is told, which the count shows; packets are not held up by it.
 */
#ifndef MCR_BPF_TAP_H
#define MCR_BPF_TAP_H

#include "bpf/hand.h"

MAP(watched);
MAP(streams);
MAP(rings);
MAP(media);
PARAMETER(health); /* whether any stream is watched */
PARAMETER(slots);  /* of each ring */

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
#define RTP_VERSION 0xc0
#define RTP_MORE    0x1f /* an extension, or sources */

_Static_assert(!(MCR_MAX_RULES & (MCR_MAX_RULES - 1)), "a power of two");

static uint64_t (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static uint32_t (*const bpf_get_smp_processor_id)(void) = (void *)BPF_FUNC_get_smp_processor_id;

struct seen_plain {
	struct mcr_bpf_seen seen;
	uint8_t payload[MCR_BPF_KEPT_PLAIN];
};

struct seen_head {
	struct mcr_bpf_seen seen;
	uint8_t payload[MCR_BPF_KEPT_HEAD];
} __attribute__((aligned(MCR_BPF_SLOT)));

struct seen_whole {
	struct mcr_bpf_seen seen;
	uint8_t payload[MCR_BPF_KEPT];
} __attribute__((aligned(MCR_BPF_SLOT)));

struct seen_brief {
	struct mcr_bpf_seen seen;
	struct mcr_bpf_brief brief;
};

/* Without a branch, as the verifier follows both sides of each. Below 2^63. */
INLINE uint64_t lesser(uint64_t a, uint64_t b)
{
	uint64_t more = a - b, sign = (uint64_t)((int64_t)more >> 63);

	asm volatile("" : "+r"(sign)); /* else the compiler makes it one */
	return b + (more & sign);
}

/* So many bytes of the packet, from its IP header on. 0: they aren't there. */
INLINE uint16_t copy(struct __sk_buff *skb, uint32_t offset, void *to, uint64_t size, uint64_t most)
{
	uint64_t last = lesser(size, most) - 1;

	OPAQUE(last); /* before Linux 6.8 the verifier learns nothing from a comparison with 0 */
	if (last >= most)
		return 0;
	size = last + 1;
	return fetch(skb, offset, to, (uint32_t)size) ? 0 : (uint16_t)size;
}

INLINE struct mcr_bpf_ring *find_ring(void)
{
	uint32_t processor = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(map_rings, &processor);
}

/* Room for records of so many slots in all: MCR_BPF_SPARE_SLOTS at most. NULL: the ring is full. */
INLINE void *reserve_slots(struct mcr_bpf_ring *ring, uint64_t slots)
{
	uint64_t at = ring->produced;

	if (at - ring->consumed + slots > VALUE(slots))
		return 0;
	return ring->slots + (at & (VALUE(slots) - 1)) * MCR_BPF_SLOT;
}

/* Room for a record of up to so many bytes. */
INLINE void *reserve(struct mcr_bpf_ring *ring, uint32_t size)
{
	return reserve_slots(ring, MCR_BPF_SLOTS_OF(size));
}

/* A record of so many slots is there. */
INLINE void submit(struct mcr_bpf_ring *ring, uint32_t slots)
{
	asm volatile("" ::: "memory"); /* what was written before is there before */
	*(volatile uint64_t *)&ring->produced += slots;
}

/* Whether an RTP header may go on behind what is told of most. */
INLINE bool goes_on(uint8_t first)
{
	return (first & RTP_VERSION) == RTP_PLAIN && first & RTP_MORE;
}

/* Tell of a datagram by the plain header of RTP, or what stands in its place. False: that would not do. */
INLINE bool tell_plain(struct mcr_bpf_ring *ring, struct __sk_buff *skb, uint32_t offset, struct mcr_bpf_seen seen)
{
	struct seen_plain *record = reserve(ring, sizeof(*record));

	if (!record)
		return true;
	seen.kept = copy(skb, offset, record->payload, seen.size, sizeof(record->payload));
	if (goes_on(record->payload[0]))
		return false;
	seen.slots = MCR_BPF_SLOTS_OF(sizeof(*record));
	record->seen = seen;
	submit(ring, MCR_BPF_SLOTS_OF(sizeof(*record)));
	return true;
}

/* Tell of a datagram by as many of its first bytes as a record of this size has room for. */
INLINE void write_down(struct mcr_bpf_ring *ring, struct mcr_bpf_seen *record, struct __sk_buff *skb, uint32_t offset,
		       struct mcr_bpf_seen seen, const uint32_t size)
{
	const uint32_t most = size == sizeof(struct seen_head) ? MCR_BPF_KEPT_HEAD : MCR_BPF_KEPT;

	seen.kept = copy(skb, offset, record + 1, seen.size, most);
	seen.slots = MCR_BPF_SLOTS_OF(size);
	*record = seen;
	submit(ring, MCR_BPF_SLOTS_OF(size));
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
INLINE bool tell_brief(struct mcr_bpf_ring *ring, struct __sk_buff *skb, uint32_t offset, struct mcr_bpf_seen seen)
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
	record = reserve(ring, sizeof(*record));
	if (!record)
		return true;
	seen.kept = MCR_BPF_BRIEF;
	seen.slots = MCR_BPF_SLOTS_OF(sizeof(*record));
	record->seen = seen;
	abridge(&record->brief, media, at, count);
	submit(ring, MCR_BPF_SLOTS_OF(sizeof(*record)));
	return true;
}

INLINE uint32_t payload_at(const struct mcr_ipv4 *ip)
{
	return 4u * (ip->version_size & 15) + (uint32_t)sizeof(struct mcr_udp);
}

/*
 * Each datagram of a super-frame, in records of this size: of one length, so that the verifier knows where each of them
 * is, and not in brief, as it would take seconds.
 */
INLINE void tell_each(struct mcr_bpf_ring *ring, struct __sk_buff *skb, uint64_t *count, uint32_t offset,
		      struct mcr_bpf_seen seen, uint32_t size, const uint32_t each)
{
	uint64_t records = lesser(datagrams_in(skb, size, 0), MCR_BPF_TOLD);
	struct mcr_bpf_seen *record = reserve_slots(ring, records * MCR_BPF_SLOTS_OF(each));
	uint32_t step = skb->gso_size, at = 0;

	for (uint32_t i = 0; record && i < MCR_BPF_TOLD; i++) {
		seen.count = ++*count;
		seen.size = (uint16_t)lesser(size - at, step);
		write_down(ring, record, skb, offset + at, seen, each);
		/* by a number in the instruction: without CAP_PERFMON the verifier follows any other on a way of its own */
		asm volatile("%0 += %1" : "+r"(record) : "i"(each));
		at += step;
		if (at >= size)
			return;
	}
	*count += (size - at - 1) / step + 1; /* which shows that they were not told of */
}

INLINE void tell_all(struct mcr_bpf_ring *ring, struct __sk_buff *skb, const struct mcr_bpf_stream *stream,
		     uint64_t *count, uint32_t offset, struct mcr_bpf_seen seen, uint32_t size)
{
	if (stream->keep == MCR_BPF_KEPT_HEAD)
		tell_each(ring, skb, count, offset, seen, size, sizeof(struct seen_head));
	else
		tell_each(ring, skb, count, offset, seen, size, sizeof(struct seen_whole));
}

INLINE void tell_head(struct mcr_bpf_ring *ring, struct __sk_buff *skb, uint32_t offset, struct mcr_bpf_seen seen)
{
	struct mcr_bpf_seen *record = reserve(ring, sizeof(struct seen_head));

	if (record)
		write_down(ring, record, skb, offset, seen, sizeof(struct seen_head));
}

INLINE void tell_whole(struct mcr_bpf_ring *ring, struct __sk_buff *skb, uint32_t offset, struct mcr_bpf_seen seen)
{
	struct mcr_bpf_seen *record = reserve(ring, sizeof(struct seen_whole));

	if (record)
		write_down(ring, record, skb, offset, seen, sizeof(struct seen_whole));
}

INLINE void tell_one(struct mcr_bpf_ring *ring, struct __sk_buff *skb, const struct mcr_bpf_stream *stream,
		     uint32_t offset, struct mcr_bpf_seen seen)
{
	if (stream->keep != MCR_BPF_KEPT_HEAD) {
		if (!tell_brief(ring, skb, offset, seen))
			tell_whole(ring, skb, offset, seen);
	} else if (!tell_plain(ring, skb, offset, seen)) {
		tell_head(ring, skb, offset, seen);
	}
}

/* Tell of each datagram in a frame, if its flow is watched. `begin`: of its payload; `total`: bytes of IP. */
INLINE void tell(struct __sk_buff *skb, const struct mcr_flow *flow, uint32_t begin, uint32_t total)
{
	const uint32_t *number = bpf_map_lookup_elem(map_watched, flow);
	struct mcr_bpf_stream *stream = number ? bpf_map_lookup_elem(map_streams, number) : 0;
	uint32_t size = total - begin;
	struct mcr_bpf_seen seen = {};
	struct mcr_bpf_ring *ring;
	uint64_t *count;

	if (!stream || size > 0xffff)
		return;
	ring = find_ring();
	if (!ring) { /* a processor that came after the map: what it has is not seen */
		__sync_fetch_and_add(&stream->astray, datagrams_in(skb, size, 0));
		return;
	}
	count = &ring->counts[*number & (MCR_MAX_RULES - 1)];
	seen.time = bpf_ktime_get_ns();
	seen.stream = (uint16_t)*number;
	if (skb->gso_size && skb->gso_size < size) {
		tell_all(ring, skb, stream, count, begin, seen, size);
		return;
	}
	seen.count = ++*count;
	seen.size = (uint16_t)size;
	tell_one(ring, skb, stream, begin, seen);
}

#endif
