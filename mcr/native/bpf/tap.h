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
PARAMETER(loops);  /* whether the kernel has bpf_loop */

#define NO_SLOT     MCR_MAX_RULES
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

/*
 * Whether there is room for records of so many slots in all: MCR_BPF_SPARE_SLOTS at most. Not told by a pointer that may be
 * NULL: the compiler tests twice what it can derive, and without CAP_PERFMON the verifier follows also that the tests differ.
 */
INLINE bool has_room(const struct mcr_bpf_ring *ring, uint64_t slots)
{
	return ring->produced - ring->consumed + slots <= VALUE(slots);
}

/* Where the next record begins, if there is room. */
INLINE void *next_record(struct mcr_bpf_ring *ring)
{
	return ring->slots + (ring->produced & (VALUE(slots) - 1)) * MCR_BPF_SLOT;
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

/* Tell of a datagram by the plain header of RTP, or what stands in its place. */
INLINE void tell_plain(struct mcr_bpf_ring *ring, const void *payload, struct mcr_bpf_seen seen)
{
	struct seen_plain *record = next_record(ring);

	if (!has_room(ring, MCR_BPF_SLOTS_OF(sizeof(*record))))
		return;
	seen.kept = sizeof(record->payload);
	seen.slots = MCR_BPF_SLOTS_OF(sizeof(*record));
	record->seen = seen;
	__builtin_memcpy(record->payload, payload, sizeof(record->payload));
	submit(ring, MCR_BPF_SLOTS_OF(sizeof(*record)));
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
#pragma clang loop unroll(full)
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
#pragma clang loop unroll(full)
	for (uint32_t i = 0; i < MCR_BPF_BRIEF_PACKETS; i++)
		if (i < count && !is_brief(media, at + i * TS_PACKET))
			return false;
	if (!has_room(ring, MCR_BPF_SLOTS_OF(sizeof(*record))))
		return true;
	record = next_record(ring);
	seen.kept = MCR_BPF_BRIEF;
	seen.slots = MCR_BPF_SLOTS_OF(sizeof(*record));
	record->seen = seen;
	abridge(&record->brief, media, at, count);
	submit(ring, MCR_BPF_SLOTS_OF(sizeof(*record)));
	return true;
}

/* A frame of which is told. */
struct told {
	uint32_t total;         /* bytes of IP */
	uint32_t begin;         /* of its payload */
	uint32_t plain_begin;   /* where it begins if its first bytes were copied with the headers */
	const uint8_t *payload; /* those, MCR_BPF_KEPT_PLAIN if there are so many */
};

INLINE uint32_t payload_at(const struct mcr_ipv4 *ip)
{
	return 4u * (ip->version_size & 15) + (uint32_t)sizeof(struct mcr_udp);
}

/* A super-frame of which is told. */
struct telling {
	struct __sk_buff *skb;
	struct mcr_bpf_ring *ring;
	uint8_t *records;
	uint64_t *count;
	struct mcr_bpf_seen seen;
	uint32_t offset; /* of its payload */
	uint32_t size;   /* of that */
	uint32_t at;     /* the next datagram in it */
	uint32_t step;
};

/* Tell of the next datagram. Whether that was the last one. */
INLINE bool tell_next(struct telling *telling, void *record, const uint32_t each)
{
	struct mcr_bpf_seen seen = telling->seen;

	seen.count = ++*telling->count;
	seen.size = (uint16_t)lesser(telling->size - telling->at, telling->step);
	write_down(telling->ring, record, telling->skb, telling->offset + telling->at, seen, each);
	telling->at += telling->step;
	return telling->at >= telling->size;
}

static long tell_next_head(uint64_t i, struct telling *telling)
{
	const uint32_t each = sizeof(struct seen_head);

	return tell_next(telling, telling->records + (i & (MCR_BPF_TOLD - 1)) * each, each);
}

static long tell_next_whole(uint64_t i, struct telling *telling)
{
	const uint32_t each = sizeof(struct seen_whole);

	return tell_next(telling, telling->records + (i & (MCR_BPF_TOLD - 1)) * each, each);
}

/* Before Linux 5.17. */
INLINE void tell_by_steps(struct telling *telling, const uint32_t each)
{
	uint8_t *record = telling->records;
	uint32_t left = MCR_BPF_TOLD;

again:
	if (tell_next(telling, record, each) || !--left)
		return;
	/* by a number in the instruction: without CAP_PERFMON the verifier follows any other on a way of its own */
	asm volatile("%0 += %1" : "+r"(record) : "i"(each));
	asm goto("goto %l[again]" ::
			 : "memory"
		 : again); /* these kernels allow loops by jumps, not by what falls through */
}

/* Each datagram of a super-frame, in records of this size: of one length, so that the verifier knows where each of them is. */
INLINE void tell_each(struct telling *telling, const uint32_t each)
{
	uint64_t records = lesser(datagrams_in(telling->skb, telling->size, 0), MCR_BPF_TOLD);

	if (!has_room(telling->ring, records * MCR_BPF_SLOTS_OF(each)))
		return;
	telling->records = next_record(telling->ring);
	if (!VALUE(loops)) {
		tell_by_steps(telling, each);
	} else if (each == sizeof(struct seen_head)) {
		asm volatile("# so that the function is named here, and not before the branch");
		bpf_loop(MCR_BPF_TOLD, tell_next_head, telling, 0);
	} else {
		asm volatile("# likewise, and apart from the other one");
		bpf_loop(MCR_BPF_TOLD, tell_next_whole, telling, 0);
	}
}

INLINE void tell_all(struct telling *telling, const struct mcr_bpf_stream *stream)
{
	if (stream->keep == MCR_BPF_KEPT_HEAD)
		tell_each(telling, sizeof(struct seen_head));
	else
		tell_each(telling, sizeof(struct seen_whole));
	if (telling->at < telling->size) /* which shows that they were not told of */
		*telling->count += (telling->size - telling->at - 1) / telling->step + 1;
	/* The compiler uses its memory again; without CAP_PERFMON no pointer there may be overwritten in part. */
	*telling = (struct telling){ 0 };
	asm volatile("" ::"r"(telling) : "memory");
}

INLINE void tell_head(struct mcr_bpf_ring *ring, struct __sk_buff *skb, uint32_t offset, struct mcr_bpf_seen seen)
{
	if (has_room(ring, MCR_BPF_SLOTS_OF(sizeof(struct seen_head))))
		write_down(ring, next_record(ring), skb, offset, seen, sizeof(struct seen_head));
}

INLINE void tell_whole(struct mcr_bpf_ring *ring, struct __sk_buff *skb, uint32_t offset, struct mcr_bpf_seen seen)
{
	if (has_room(ring, MCR_BPF_SLOTS_OF(sizeof(struct seen_whole))))
		write_down(ring, next_record(ring), skb, offset, seen, sizeof(struct seen_whole));
}

INLINE void tell_one(struct mcr_bpf_ring *ring, struct __sk_buff *skb, const struct mcr_bpf_stream *stream,
		     struct mcr_bpf_seen seen, const struct told *told)
{
	if (stream->keep != MCR_BPF_KEPT_HEAD) {
		if (!tell_brief(ring, skb, told->begin, seen))
			tell_whole(ring, skb, told->begin, seen);
	} else if (told->begin == told->plain_begin && seen.size >= MCR_BPF_KEPT_PLAIN && !goes_on(told->payload[0])) {
		tell_plain(ring, told->payload, seen);
	} else {
		tell_head(ring, skb, told->begin, seen);
	}
}

/*
 * The stream that a flow is, if it is watched. The kernel path has found its rule already: streams have the numbers of their
 * rules' slots. `slot`: of that, or NO_SLOT.
 */
INLINE uint32_t number_of(const struct mcr_flow *flow, uint32_t slot)
{
	const uint32_t *number;

	if (slot != NO_SLOT)
		return slot;
	number = bpf_map_lookup_elem(map_watched, flow);
	return number ? *number : NO_SLOT;
}

/* Tell of each datagram in a frame, if its flow is watched: number_of(). */
INLINE void tell(struct __sk_buff *skb, uint32_t number, const struct told *told)
{
	struct mcr_bpf_stream *stream = bpf_map_lookup_elem(map_streams, &number);
	uint32_t size = told->total - told->begin;
	struct mcr_bpf_seen seen = {};
	struct mcr_bpf_ring *ring;
	uint64_t *count;

	if (!stream || !stream->keep || size > 0xffff)
		return;
	ring = find_ring();
	if (!ring) { /* a processor that came after the map: what it has is not seen */
		__sync_fetch_and_add(&stream->astray, datagrams_in(skb, size, 0));
		return;
	}
	number = stream->number; /* without CAP_PERFMON the verifier wants one range, wherever it came from */
	count = &ring->counts[number & (MCR_MAX_RULES - 1)];
	seen.time = bpf_ktime_get_ns();
	seen.stream = (uint16_t)number;
	if (skb->gso_size && skb->gso_size < size) {
		struct telling telling = { .skb = skb,
					   .ring = ring,
					   .count = count,
					   .seen = seen,
					   .offset = told->begin,
					   .size = size,
					   .step = skb->gso_size };

		tell_all(&telling, stream);
		return;
	}
	seen.count = ++*count;
	seen.size = (uint16_t)size;
	tell_one(ring, skb, stream, seen, told);
}

#endif
