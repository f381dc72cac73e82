/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What is told of frames stands in records, in a ring of the processor's (abi.h). */
#ifndef MCR_BPF_RECORD_H
#define MCR_BPF_RECORD_H

#include "bpf/frame.h"

MAP(rings);
PARAMETER(slots); /* of each ring */

static uint32_t (*const bpf_get_smp_processor_id)(void) = (void *)BPF_FUNC_get_smp_processor_id;

/* A frame of which is told. */
struct told {
	uint32_t total;         /* bytes of IP */
	uint32_t begin;         /* of its payload */
	uint32_t plain_begin;   /* where it begins if its first bytes were copied with the headers */
	const uint8_t *payload; /* those, MCR_BPF_KEPT_PLAIN if there are so many */
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

#endif
