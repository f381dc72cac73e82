// SPDX-License-Identifier: MIT
#include "returns.h"

#include <string.h>

#include "flow.h"

#define MIX UINT64_C(0x9e3779b97f4a7c15)

_Static_assert((MCR_RETURNS & (MCR_RETURNS - 1)) == 0 && MCR_RETURNS <= 1 << 16, "the queue holds the number of any");

static uint64_t mix(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * MIX;
	return hash ^ hash >> 32;
}

static void copy_source(uint32_t *source, const struct mcr_packet *packet)
{
	memset(source, 0, sizeof(packet->source6));
	if (packet->family == MCR_FLOW_IPV6)
		memcpy(source, packet->source6, sizeof(packet->source6));
	else
		source[0] = packet->source;
}

/* Of two that differ it is the same as seldom as chance has it; 0 stands for none. */
static uint64_t hash_of(const struct mcr_arrival *arrival)
{
	uint64_t hash = mix(arrival->rule, (uint64_t)arrival->capture << 32 | arrival->size), words[2], word = 0;
	const struct mcr_packet *packet = arrival->packet;
	bool is_ipv6 = packet->family == MCR_FLOW_IPV6;
	uint32_t source[4], done = 0;

	copy_source(source, packet);
	memcpy(words, source, sizeof(words));
	hash = mix(mix(hash, words[0]), words[1]);
	memcpy(words, packet->group6, is_ipv6 ? sizeof(words) : sizeof(packet->group)); /* a rule may take many */
	hash = mix(mix(mix(hash, words[0]), words[1]), packet->port);
	for (; arrival->size - done >= sizeof(word); done += (uint32_t)sizeof(word)) {
		memcpy(&word, arrival->data + done, sizeof(word));
		hash = mix(hash, word);
	}
	word = 0;
	memcpy(&word, arrival->data + done, arrival->size - done);
	return mix(hash, word) | 1;
}

static void lose(struct mcr_returns *returns, struct mcr_return *entry)
{
	returns->lost[entry->capture] += entry->held;
	returns->held[entry->capture] -= entry->held;
	entry->held = 0;
}

/* Its own place; or a free one, or that of the one which has not come for longest. */
static struct mcr_return *find_place(struct mcr_returns *returns, uint64_t hash)
{
	struct mcr_return *ways = &returns->entries[(hash >> 32) % (MCR_RETURNS / MCR_RETURN_WAYS) * MCR_RETURN_WAYS];
	struct mcr_return *place = ways;

	for (uint32_t i = 0; i < MCR_RETURN_WAYS; i++) {
		if (ways[i].hash == hash)
			return &ways[i];
		if (ways[i].seen_ns < place->seen_ns)
			place = &ways[i];
	}
	return place;
}

static void begin(struct mcr_returns *returns, struct mcr_return *entry, const struct mcr_arrival *arrival,
		  uint64_t hash, uint64_t now_ns)
{
	lose(returns, entry);
	*entry = (struct mcr_return){
		.hash = hash,
		.seen_ns = now_ns,
		.rule = arrival->rule,
		.capture = (uint16_t)arrival->capture,
		.ipv6 = arrival->packet->family == MCR_FLOW_IPV6,
		.queued = entry->queued,
	};
	copy_source(entry->source, arrival->packet);
}

static void hold(struct mcr_returns *returns, struct mcr_return *entry, uint64_t now_ns)
{
	if (!entry->since_ns)
		entry->since_ns = now_ns;
	entry->held++;
	returns->held[entry->capture]++;
	if (entry->queued)
		return;
	entry->queued = true;
	returns->queue[(returns->first + returns->waiting++) % MCR_RETURNS] = (uint16_t)(entry - returns->entries);
}

/* One that a source sends, and some of what was held. */
static uint32_t pay(struct mcr_returns *returns, struct mcr_return *entry, uint32_t room)
{
	uint32_t most = room - 1 < MCR_RETURN_PAYED ? room - 1 : MCR_RETURN_PAYED;
	uint32_t paid = entry->held < most ? entry->held : most;

	entry->held -= paid;
	returns->held[entry->capture] -= paid;
	return 1 + paid;
}

uint32_t mcr_returns_take(struct mcr_returns *returns, const struct mcr_arrival *arrival, uint64_t now_ns,
			  uint32_t room)
{
	uint64_t hash = hash_of(arrival);
	struct mcr_return *entry = find_place(returns, hash);
	bool again = entry->hash == hash && now_ns - entry->seen_ns <= MCR_RETURN_NS;

	if (!again) {
		begin(returns, entry, arrival, hash, now_ns);
		return 1;
	}
	entry->seen_ns = now_ns;
	if (!entry->constant && entry->since_ns && now_ns - entry->since_ns > MCR_RETURN_NS)
		entry->constant = true;
	if (entry->constant)
		return pay(returns, entry, room);
	hold(returns, entry, now_ns);
	return 0;
}

const struct mcr_return *mcr_returns_expire(struct mcr_returns *returns, uint64_t now_ns)
{
	while (returns->waiting) {
		struct mcr_return *entry = &returns->entries[returns->queue[returns->first]];
		bool lost = entry->held;

		if (lost && now_ns - entry->seen_ns <= MCR_RETURN_NS)
			return NULL;
		lose(returns, entry);
		entry->queued = false;
		returns->first = (returns->first + 1) % MCR_RETURNS;
		returns->waiting--;
		if (lost)
			return entry;
	}
	return NULL;
}

void mcr_returns_give_up(struct mcr_returns *returns, uint32_t capture)
{
	for (uint32_t i = 0; i < MCR_RETURNS && returns->held[capture]; i++)
		if (returns->entries[i].held && returns->entries[i].capture == capture)
			lose(returns, &returns->entries[i]);
}

void mcr_returns_collect(struct mcr_returns *returns, uint32_t capture, struct mcr_totals *add)
{
	uint32_t count = returns->lost[capture];

	add->recv += count;
	add->parse_err += count;
	add->causes[MCR_CAUSE_LOOP_BY_OTHERS] += count;
	returns->lost[capture] = 0;
}
