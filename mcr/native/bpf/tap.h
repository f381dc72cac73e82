/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Tells of the datagrams of streams whose health is watched: when each came, and its first bytes, or those of each packet
 * of a transport stream. Whoever reads that analyses it (health/tap.h). Each processor has a ring of its own, so that no
 * lock is taken. A full one is a gap in what is told, which the count shows; packets are not held up by it.
 */
#ifndef MCR_BPF_TAP_H
#define MCR_BPF_TAP_H

#include "bpf/brief.h"
#include "bpf/hand.h"

MAP(watched);
MAP(streams);
PARAMETER(health); /* whether any stream is watched */
PARAMETER(loops);  /* whether the kernel has bpf_loop */

#define NO_SLOT     MCR_MAX_RULES
#define RTP_VERSION 0xc0
#define RTP_MORE    0x1f /* an extension, or sources */

_Static_assert(!(MCR_MAX_RULES & (MCR_MAX_RULES - 1)), "a power of two");

static uint64_t (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;

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
		if (VALUE(slices) && tell_in_place(ring, skb, told, seen))
			return;
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
