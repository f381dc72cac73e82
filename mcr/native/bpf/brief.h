/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Tells of a transport stream's datagrams by the first bytes of each packet, where that says as much as all of it. */
#ifndef MCR_BPF_BRIEF_H
#define MCR_BPF_BRIEF_H

#include "bpf/record.h"

MAP(media);
PARAMETER(slices); /* whether packets can be read where they lie: Linux 6.5 */

#define TS_PACKET   188
#define TS_SYNC     0x47
#define TS_STARTS   0x40 /* payload_unit_start_indicator, in the second byte */
#define TS_FIELD    0x20 /* an adaptation field, in the fourth */
#define TS_HEADER   4
#define TS_PID_HIGH 0x1f /* the upper bits of the PID, in the second byte */

#define BEGIN_MASK 511
#define PMT_ID     2
#define RTP_HEADER 12
#define RTP_PLAIN  0x80 /* version 2; neither padding, extension nor sources */

/* Of the first four bytes of a packet, as a number: those that are TS_SYNC if it is synchronous, and nothing begins in it. */
#define WORD_BEGIN 0x40ffu
#define WORD_FIELD ((uint32_t)TS_FIELD << 24)

struct seen_brief {
	struct mcr_bpf_seen seen;
	struct mcr_bpf_brief brief;
};

#define BRIEF_WITHOUT_FIELDS (sizeof(struct mcr_bpf_seen) + offsetof(struct mcr_bpf_brief, fields))

/* Bytes of as many packets as most datagrams have. */
#define TS_DATAGRAM (MCR_BPF_BRIEF_PACKETS * TS_PACKET)

/* What the kernel knows a frame's bytes by, to give a pointer to some of them: also to a socket filter. */
struct dynptr {
	uint64_t opaque[2];
};

extern int function_dynptr_from_skb(struct __sk_buff *skb, uint64_t flags, struct dynptr *bytes);
extern const void *function_dynptr_slice(const struct dynptr *bytes, uint64_t offset, void *buffer, uint64_t size);

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

/*
 * 0: in front of the packets is nothing or RTP's plain header. `size` is below 2^16. By one number: where the verifier learns
 * a size by comparisons, it follows all that comes behind for each of them.
 */
INLINE uint32_t is_no_header(uint32_t size)
{
	return size * (size - RTP_HEADER);
}

/* 0: nor does that header say that more follows. */
INLINE uint32_t is_no_rtp(uint32_t size, uint8_t first)
{
	return -(size >> 3 & 1u) & (first ^ RTP_PLAIN);
}

INLINE void note_rtp(struct mcr_bpf_brief *brief, const void *header)
{
	for (uint32_t i = 0; i < MCR_BPF_RTP_WORDS; i++)
		brief->rtp[i] = ((const uint32_t *)header)[i];
}

INLINE void abridge(struct mcr_bpf_brief *brief, const struct mcr_bpf_media *media, uint32_t at, uint32_t count)
{
#pragma clang loop unroll(full)
	for (uint32_t i = 0; i < MCR_BPF_BRIEF_PACKETS; i++) {
		const uint32_t *packet = (const void *)(media->bytes + at + i * TS_PACKET);

		if (i >= count)
			break;
		brief->headers[i] = packet[0];
		brief->fields[i][0] = packet[1];
		brief->fields[i][1] = packet[2];
	}
	note_rtp(brief, media->bytes);
}

/* Seven packets, where they lie. NULL: not in one piece. */
INLINE const uint8_t *find_packets(struct __sk_buff *skb, uint32_t offset)
{
	struct dynptr bytes;

	if (function_dynptr_from_skb(skb, 0, &bytes))
		return 0;
	return function_dynptr_slice(&bytes, (VALUE(bare) ? 0 : ETH_HLEN) + offset, 0, TS_DATAGRAM);
}

/* Gives what bits of the headers say that they are not all: of WORD_BEGIN, or WORD_FIELD. */
INLINE uint32_t note_headers(struct mcr_bpf_brief *brief, const uint8_t *packets)
{
	uint32_t bits = 0;

#pragma clang loop unroll(full)
	for (uint32_t i = 0; i < MCR_BPF_BRIEF_PACKETS; i++) {
		uint32_t header = *(const uint32_t *)(const void *)(packets + i * TS_PACKET);

		brief->headers[i] = header;
		bits |= ((header ^ TS_SYNC) & WORD_BEGIN) | (header & WORD_FIELD);
	}
	return bits;
}

INLINE void note_fields(struct mcr_bpf_brief *brief, const uint8_t *packets)
{
#pragma clang loop unroll(full)
	for (uint32_t i = 0; i < MCR_BPF_BRIEF_PACKETS; i++) {
		const uint32_t *packet = (const void *)(packets + i * TS_PACKET);

		brief->fields[i][0] = packet[1];
		brief->fields[i][1] = packet[2];
	}
}

/* 0: the payload has seven packets and nothing else but RTP's plain header, and was copied with the headers. */
INLINE uint32_t is_unusual(const struct told *told, uint32_t header)
{
	return (told->begin ^ told->plain_begin) | is_no_header(header) | is_no_rtp(header, told->payload[0]);
}

/*
 * Tell of most datagrams of transport streams without a copy of them: of what was written by a card, or another processor,
 * only the lines are touched in which packets begin. False: that would not do.
 */
INLINE bool tell_in_place(struct mcr_bpf_ring *ring, struct __sk_buff *skb, const struct told *told,
			  struct mcr_bpf_seen seen)
{
	uint32_t header = seen.size - TS_DATAGRAM, bits;
	struct seen_brief *record = next_record(ring);
	const uint8_t *packets;

	if (is_unusual(told, header) || !has_room(ring, MCR_BPF_SLOTS_OF(sizeof(*record))))
		return false;
	packets = find_packets(skb, told->begin + header);
	if (!packets)
		return false;
	bits = note_headers(&record->brief, packets);
	if (bits & WORD_BEGIN)
		return false;
	seen.kept = MCR_BPF_BRIEF;
	seen.slots = MCR_BPF_SLOTS_OF(BRIEF_WITHOUT_FIELDS);
	if (bits) {
		seen.slots = MCR_BPF_SLOTS_OF(sizeof(*record));
		note_fields(&record->brief, packets);
	}
	record->seen = seen;
	note_rtp(&record->brief, told->payload);
	submit(ring, seen.slots);
	return true;
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

#endif
