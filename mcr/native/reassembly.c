// SPDX-License-Identifier: MIT
#include "reassembly.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "parse.h"

#define MORE_FRAGMENTS 0x2000
#define OFFSET         0x1fff
#define ECN            3 /* and the mark of congestion: both bits (RFC 3168, 5) */

/* Where a fragment's bytes belong in its datagram, counted from behind the IP header. */
struct part {
	struct mcr_flow flow;
	uint32_t id;
	uint32_t start, end;
	bool last;
	const struct mcr_ipv4 *ip;
	const uint8_t *bytes;
};

static int read_part(const struct mcr_frame *frame, uint32_t capture, struct part *part)
{
	const struct mcr_ipv4 *ip = (const struct mcr_ipv4 *)(frame->data + frame->network);
	uint32_t header = (ip->version_size & 15u) * 4, total = ntohs(ip->total), place = ntohs(ip->fragment);

	*part = (struct part){
		.flow = mcr_flow_ipv4((uint16_t)capture, frame->vlan, ip->source, ip->destination, 0),
		.id = ip->id,
		.start = (place & OFFSET) * MCR_FRAGMENT_UNIT,
		.last = !(place & MORE_FRAGMENTS),
		.ip = ip,
		.bytes = (const uint8_t *)ip + header,
	};
	if (total == header)
		return -EBADMSG;
	part->end = part->start + total - header;
	if (part->end + header > MCR_DATAGRAM_BYTES || (!part->last && part->end % MCR_FRAGMENT_UNIT))
		return -EBADMSG;
	return 0;
}

/* Sources that have the same hash share their lot. */
static uint8_t *sent_by(struct mcr_reassembly *reassembly, const struct mcr_partial *partial)
{
	uint32_t hash = partial->flow.source * UINT32_C(0x9e3779b1);

	return &reassembly->sent_by[(uint64_t)hash * MCR_REASSEMBLIES >> 32]; /* its upper bits have something of all */
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
	return reassembly->datagrams[partial - reassembly->partials] + sizeof(struct mcr_ipv4);
}

/* 0: it fits. 1: it is there already. -EEXIST: it contradicts others. */
static int compare(struct mcr_reassembly *reassembly, const struct mcr_partial *partial, const struct part *part)
{
	uint32_t first = part->start / MCR_FRAGMENT_UNIT, end = (part->end - 1) / MCR_FRAGMENT_UNIT + 1, there;

	if (part->last ? (partial->end && partial->end != part->end) || partial->reach > part->end
		       : partial->end && part->end > partial->end)
		return -EEXIST;
	there = units_there(reassembly->maps[partial - reassembly->partials], first, end);
	if (!there)
		return 0;
	return there == end - first && part->end <= partial->reach &&
			       !memcmp(place_of(reassembly, partial) + part->start, part->bytes,
				       part->end - part->start)
		       ? 1
		       : -EEXIST;
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

	if (!part->start)
		memcpy(place - sizeof(*part->ip), part->ip, sizeof(*part->ip));
	memcpy(place + part->start, part->bytes, part->end - part->start);
	mark_units(reassembly->maps[partial - reassembly->partials], part->start / MCR_FRAGMENT_UNIT,
		   (part->end - 1) / MCR_FRAGMENT_UNIT + 1);
	if (part->last)
		partial->end = part->end;
	if (part->end > partial->reach)
		partial->reach = part->end;
	partial->bytes += part->end - part->start;
	partial->congested |= (part->ip->service & ECN) == ECN;
	partial->fragments++;
	reassembly->fragments[partial->flow.interface]++;
}

/* Of the first fragment's header, without options. Its checksum is not made again: those of the fragments were right. */
static void finish(struct mcr_reassembly *reassembly, struct mcr_partial *partial, struct mcr_frame *frame)
{
	struct mcr_ipv4 *ip = (struct mcr_ipv4 *)reassembly->datagrams[partial - reassembly->partials];
	uint32_t total = (uint32_t)sizeof(*ip) + partial->end;

	ip->version_size = 0x45;
	ip->total = htons((uint16_t)total);
	ip->fragment = 0;
	if (partial->congested && ip->service & ECN)
		ip->service |= ECN;
	reassembly->fragments[partial->flow.interface] -= partial->fragments;
	stop_waiting(reassembly, partial, MCR_PARTIAL_WHOLE);
	reassembly->whole++;
	*frame = (struct mcr_frame){
		.data = (const uint8_t *)ip,
		.size = total,
		.wire_size = total,
		.vlan = partial->flow.vlan,
		.put_together = true,
	};
}

int mcr_reassembly_add(struct mcr_reassembly *reassembly, uint32_t capture, uint64_t now_ns, struct mcr_frame *frame)
{
	struct mcr_partial *partial;
	struct part part;
	int ret = read_part(frame, capture, &part);

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
