// SPDX-License-Identifier: MIT
#include "reassembly.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define MORE_FRAGMENTS 0x2000
#define OFFSET         0x1fff

#define MORE_FRAGMENTS6 1

#define ECN        3        /* and the mark of congestion: both bits (RFC 3168, 5) */
#define ECN6       (3 << 4) /* the same in the second byte of an IPv6 header */
#define MAX_HEADER sizeof(struct mcr_ipv6)

/* Where a fragment's bytes belong in its datagram, counted from behind the IP header. */
struct part {
	struct mcr_flow flow;
	uint32_t id;
	uint32_t start, end;
	uint32_t before; /* bytes of headers that are in front of them, and count as the datagram's */
	bool last;
	uint8_t service;
	uint8_t next;      /* of IPv6: the protocol of the bytes, if it is the first */
	const uint8_t *ip; /* the header of IP */
	const uint8_t *bytes;
};

static void read_ipv4(const uint8_t *data, struct part *part, uint32_t *size)
{
	const struct mcr_ipv4 *ip = (const struct mcr_ipv4 *)data;
	uint32_t place = ntohs(ip->fragment);

	part->id = ip->id;
	part->before = (ip->version_size & 15u) * 4;
	part->start = (place & OFFSET) * MCR_FRAGMENT_UNIT;
	part->last = !(place & MORE_FRAGMENTS);
	part->bytes = data + part->before;
	*size = ntohs(ip->total) - part->before;
}

/* Headers in front of that of the fragment are each fragment's own (RFC 8200, 4.5); the parser has been past them. */
static void read_ipv6(const uint8_t *data, struct part *part, uint32_t *size)
{
	const struct mcr_ipv6 *ip = (const struct mcr_ipv6 *)data;
	const uint8_t *at = data + sizeof(*ip);
	const struct mcr_extension *header = (const struct mcr_extension *)at;
	uint8_t protocol = ip->next;
	uint32_t place;

	while (!mcr_is_ipv6_fragment(protocol, header)) {
		at += mcr_extension_bytes(protocol, header);
		protocol = header->next;
		header = (const struct mcr_extension *)at;
	}
	place = ntohs(header->fragment);
	memcpy(&part->id, at + sizeof(*header), sizeof(part->id));
	part->before = (uint32_t)(at - data) - (uint32_t)sizeof(*ip);
	part->start = place & MCR_IPV6_OFFSET;
	part->last = !(place & MORE_FRAGMENTS6);
	part->next = header->next;
	part->bytes = at + mcr_extension_bytes(protocol, header);
	*size = ntohs(ip->payload) - (uint32_t)(part->bytes - data) + (uint32_t)sizeof(*ip);
}

static int read_part(const struct mcr_frame *frame, uint32_t capture, const struct mcr_packet *packet,
		     struct part *part)
{
	bool is_ipv6 = packet->family == MCR_FLOW_IPV6;
	uint16_t slot = (uint16_t)capture;
	uint32_t size;

	*part = (struct part){ .ip = frame->data + frame->network, .service = packet->service };
	if (is_ipv6)
		part->flow = mcr_flow_ipv6(slot, frame->vlan, packet->source6, packet->group6, 0);
	else
		part->flow = mcr_flow_ipv4(slot, frame->vlan, packet->source, packet->group, 0);
	(is_ipv6 ? read_ipv6 : read_ipv4)(part->ip, part, &size);
	part->end = part->start + size;
	if (!size || part->end + part->before > MCR_DATAGRAM_BYTES || (!part->last && size % MCR_FRAGMENT_UNIT))
		return -EBADMSG;
	return 0;
}

/* Sources that have the same hash share their lot. */
static uint8_t *sent_by(struct mcr_reassembly *reassembly, const struct mcr_partial *partial)
{
	const struct mcr_flow *flow = &partial->flow;
	uint64_t hash = mcr_mix(mcr_mix(0, flow->source | (uint64_t)flow->source_rest[0] << 32),
				flow->source_rest[1] | (uint64_t)flow->source_rest[2] << 32);

	return &reassembly->sent_by[(hash & UINT32_MAX) * MCR_REASSEMBLIES >>
				    32]; /* its upper bits have something of all */
}

static bool is_waiting(const struct mcr_partial *partial)
{
	return partial->state == MCR_PARTIAL_WAITS || partial->state == MCR_PARTIAL_SPOILT;
}

/* The fragments that are there will not leave. */
static void lose(struct mcr_reassembly *reassembly, struct mcr_partial *partial, enum mcr_cause cause)
{
	reassembly->lost[partial->flow.interface][cause] += partial->fragments;
	reassembly->losses += partial->fragments;
	reassembly->fragments[partial->flow.interface] -= partial->fragments;
	partial->fragments = 0;
}

static void stop_waiting(struct mcr_reassembly *reassembly, struct mcr_partial *partial, enum mcr_partial_state state)
{
	partial->state = state;
	reassembly->waiting--;
	--*sent_by(reassembly, partial);
}

static struct mcr_partial *find(struct mcr_reassembly *reassembly, const struct part *part)
{
	for (uint32_t i = 0; reassembly->waiting && i < MCR_REASSEMBLIES; i++) {
		struct mcr_partial *each = &reassembly->partials[i];

		if (each->id == part->id && is_waiting(each) && mcr_flow_equal(&each->flow, &part->flow))
			return each;
	}
	return NULL;
}

/* The oldest one of the source that has most of them. */
static struct mcr_partial *find_victim(struct mcr_reassembly *reassembly)
{
	struct mcr_partial *victim = NULL;

	for (uint32_t i = 0; i < MCR_REASSEMBLIES; i++) {
		struct mcr_partial *each = &reassembly->partials[i];
		uint8_t most = victim ? *sent_by(reassembly, victim) : 0, count;

		if (!is_waiting(each))
			continue;
		count = *sent_by(reassembly, each);
		if (count > most || (count == most && each->since_ns < victim->since_ns))
			victim = each;
	}
	return victim;
}

static struct mcr_partial *find_place(struct mcr_reassembly *reassembly)
{
	struct mcr_partial *place = NULL;

	for (uint32_t i = 0; i < MCR_REASSEMBLIES; i++) {
		struct mcr_partial *each = &reassembly->partials[i];

		if (each->state == MCR_PARTIAL_FREE)
			return each;
		if (each->state == MCR_PARTIAL_DONE && (!place || each->since_ns < place->since_ns))
			place = each;
	}
	if (place)
		return place;
	place = find_victim(reassembly); /* there is one: see mcr_reassembly_has_room() */
	lose(reassembly, place, MCR_CAUSE_FRAGMENT_EVICTED);
	stop_waiting(reassembly, place, MCR_PARTIAL_FREE);
	return place;
}

static struct mcr_partial *begin(struct mcr_reassembly *reassembly, const struct part *part, uint64_t now_ns)
{
	struct mcr_partial *partial = find_place(reassembly);

	*partial = (struct mcr_partial){
		.state = MCR_PARTIAL_WAITS,
		.id = part->id,
		.flow = part->flow,
		.since_ns = now_ns,
	};
	memset(reassembly->maps[partial - reassembly->partials], 0, sizeof(*reassembly->maps));
	if (!reassembly->waiting++)
		reassembly->oldest_ns = now_ns;
	++*sent_by(reassembly, partial);
	return partial;
}

/* Those of a word of the map that are units from `first` to before `end`. */
static uint64_t units(uint32_t word, uint32_t first, uint32_t end)
{
	uint32_t from = first > word * 64 ? first - word * 64 : 0, to = end < word * 64 + 64 ? end - word * 64 : 64;

	return ~UINT64_C(0) >> (64 - (to - from)) << from;
}

/* How many of a fragment's units are there already. */
static uint32_t units_there(const uint64_t *map, uint32_t first, uint32_t end)
{
	uint32_t count = 0;

	for (uint32_t word = first / 64; word * 64 < end; word++)
		count += (uint32_t)__builtin_popcountll(map[word] & units(word, first, end));
	return count;
}

static void mark_units(uint64_t *map, uint32_t first, uint32_t end)
{
	for (uint32_t word = first / 64; word * 64 < end; word++)
		map[word] |= units(word, first, end);
}

static uint8_t *place_of(struct mcr_reassembly *reassembly, const struct mcr_partial *partial)
{
	return reassembly->datagrams[partial - reassembly->partials] + MAX_HEADER;
}

/* Bytes of the header that stands before it. */
static uint32_t header_size(const struct mcr_partial *partial)
{
	return partial->flow.family == MCR_FLOW_IPV6 ? sizeof(struct mcr_ipv6) : sizeof(struct mcr_ipv4);
}

/* The first fragment's headers are the datagram's, and may be longer than those of the others. */
static bool is_too_long(const struct mcr_partial *partial, const struct part *part)
{
	uint32_t before = part->start ? partial->before : part->before;

	return before + (part->end > partial->reach ? part->end : partial->reach) > MCR_DATAGRAM_BYTES;
}

/* 0: it fits. 1: it is there already. -EEXIST: it contradicts others. */
static int compare(struct mcr_reassembly *reassembly, const struct mcr_partial *partial, const struct part *part)
{
	uint32_t first = part->start / MCR_FRAGMENT_UNIT, end = (part->end - 1) / MCR_FRAGMENT_UNIT + 1, there;

	if (part->last ? (partial->end && partial->end != part->end) || partial->reach > part->end
		       : partial->end && part->end > partial->end)
		return -EEXIST;
	if (is_too_long(partial, part))
		return -EEXIST;
	there = units_there(reassembly->maps[partial - reassembly->partials], first, end);
	if (!there)
		return 0;
	if (there < end - first || part->end > partial->reach || (part->last && !partial->end) ||
	    memcmp(place_of(reassembly, partial) + part->start, part->bytes, part->end - part->start))
		return -EEXIST;
	return 1;
}

/*
 * Whether a fragment is a copy of the one that made its datagram whole: copies of the others came while it waited. A
 * datagram that is sent again as a whole begins with another fragment.
 */
static bool came_again(struct mcr_reassembly *reassembly, const struct part *part, uint64_t now_ns)
{
	for (uint32_t i = 0; i < MCR_REASSEMBLIES; i++) {
		const struct mcr_partial *each = &reassembly->partials[i];

		if (each->id == part->id && (each->state == MCR_PARTIAL_WHOLE || each->state == MCR_PARTIAL_DONE) &&
		    each->whole_by == part->start && now_ns - each->since_ns < MCR_REASSEMBLY_NS &&
		    mcr_flow_equal(&each->flow, &part->flow) && compare(reassembly, each, part) == 1)
			return true;
	}
	return false;
}

static void store(struct mcr_reassembly *reassembly, struct mcr_partial *partial, const struct part *part)
{
	uint8_t *place = place_of(reassembly, partial);

	if (!part->start) {
		memcpy(place - header_size(partial), part->ip, header_size(partial));
		partial->before = part->before;
		partial->next = part->next;
	}
	memcpy(place + part->start, part->bytes, part->end - part->start);
	mark_units(reassembly->maps[partial - reassembly->partials], part->start / MCR_FRAGMENT_UNIT,
		   (part->end - 1) / MCR_FRAGMENT_UNIT + 1);
	if (part->last)
		partial->end = part->end;
	if (part->end > partial->reach)
		partial->reach = part->end;
	partial->bytes += part->end - part->start;
	partial->congested |= (part->service & ECN) == ECN;
	partial->fragments++;
	reassembly->fragments[partial->flow.interface]++;
}

/* Of the first fragment's header, without options. Its checksum is not made again: those of the fragments were right. */
static void finish_ipv4(const struct mcr_partial *partial, struct mcr_ipv4 *ip)
{
	ip->version_size = 0x45;
	ip->total = htons((uint16_t)(sizeof(*ip) + partial->end));
	ip->fragment = 0;
	if (partial->congested && ip->service & ECN)
		ip->service |= ECN;
}

/* The same, without the headers that each fragment has. */
static void finish_ipv6(const struct mcr_partial *partial, struct mcr_ipv6 *ip)
{
	uint8_t *service = (uint8_t *)ip + 1;

	ip->payload = htons((uint16_t)partial->end);
	ip->next = partial->next;
	if (partial->congested && *service & ECN6)
		*service |= ECN6;
}

static void finish(struct mcr_reassembly *reassembly, struct mcr_partial *partial, struct mcr_frame *frame)
{
	bool is_ipv6 = partial->flow.family == MCR_FLOW_IPV6;
	uint8_t *ip = place_of(reassembly, partial) - header_size(partial);
	uint32_t total = header_size(partial) + partial->end;

	if (is_ipv6)
		finish_ipv6(partial, (struct mcr_ipv6 *)ip);
	else
		finish_ipv4(partial, (struct mcr_ipv4 *)ip);
	reassembly->fragments[partial->flow.interface] -= partial->fragments;
	stop_waiting(reassembly, partial, MCR_PARTIAL_WHOLE);
	reassembly->whole++;
	*frame = (struct mcr_frame){
		.data = ip,
		.size = total,
		.wire_size = total,
		.vlan = partial->flow.vlan,
		.ipv6 = is_ipv6,
		.put_together = true,
	};
}

int mcr_reassembly_add(struct mcr_reassembly *reassembly, uint32_t capture, const struct mcr_packet *packet,
		       uint64_t now_ns, struct mcr_frame *frame)
{
	struct mcr_partial *partial;
	struct part part;
	int ret = read_part(frame, capture, packet, &part);

	if (ret)
		return ret;
	partial = find(reassembly, &part);
	if (!partial && came_again(reassembly, &part, now_ns))
		return -EEXIST;
	if (!partial)
		partial = begin(reassembly, &part, now_ns);
	ret = partial->state == MCR_PARTIAL_SPOILT ? 1 : compare(reassembly, partial, &part);
	if (ret < 0) {
		lose(reassembly, partial, MCR_CAUSE_FRAGMENT_OVERLAP);
		partial->state = MCR_PARTIAL_SPOILT;
	}
	if (ret)
		return -EEXIST;
	store(reassembly, partial, &part);
	if (!partial->end || partial->bytes < partial->end)
		return 0;
	partial->since_ns = now_ns;
	partial->whole_by = part.start;
	finish(reassembly, partial, frame);
	return 1;
}

bool mcr_reassembly_has_room(const struct mcr_reassembly *reassembly)
{
	return reassembly->whole < MCR_REASSEMBLIES / 2;
}

void mcr_reassembly_release(struct mcr_reassembly *reassembly)
{
	for (uint32_t i = 0; reassembly->whole; i++) {
		if (reassembly->partials[i].state != MCR_PARTIAL_WHOLE)
			continue;
		reassembly->partials[i].state = MCR_PARTIAL_DONE;
		reassembly->whole--;
	}
}

static void give_up(struct mcr_reassembly *reassembly, struct mcr_partial *partial)
{
	lose(reassembly, partial, MCR_CAUSE_FRAGMENT_INCOMPLETE);
	stop_waiting(reassembly, partial, MCR_PARTIAL_FREE);
}

void mcr_reassembly_expire(struct mcr_reassembly *reassembly, uint64_t now_ns)
{
	uint64_t oldest = now_ns;

	if (!reassembly->waiting || now_ns - reassembly->oldest_ns < MCR_REASSEMBLY_NS)
		return;
	for (uint32_t i = 0; i < MCR_REASSEMBLIES; i++) {
		struct mcr_partial *each = &reassembly->partials[i];

		if (!is_waiting(each))
			continue;
		if (now_ns - each->since_ns >= MCR_REASSEMBLY_NS)
			give_up(reassembly, each);
		else if (each->since_ns < oldest)
			oldest = each->since_ns;
	}
	reassembly->oldest_ns = oldest;
}

void mcr_reassembly_give_up(struct mcr_reassembly *reassembly, uint32_t capture)
{
	for (uint32_t i = 0; i < MCR_REASSEMBLIES; i++) {
		struct mcr_partial *each = &reassembly->partials[i];

		if (each->flow.interface != capture)
			continue;
		if (is_waiting(each))
			give_up(reassembly, each);
		else if (each->state == MCR_PARTIAL_DONE)
			each->state = MCR_PARTIAL_FREE; /* another interface may get the capture's number */
	}
}

void mcr_reassembly_collect(struct mcr_reassembly *reassembly, uint32_t capture, struct mcr_totals *add)
{
	for (uint32_t cause = 0; reassembly->losses && cause < MCR_CAUSES; cause++) {
		uint32_t count = reassembly->lost[capture][cause];

		add->recv += count;
		add->parse_err += count;
		add->causes[cause] += count;
		reassembly->lost[capture][cause] = 0;
		reassembly->losses -= count;
	}
}
