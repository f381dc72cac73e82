// SPDX-License-Identifier: MIT
// Linear probing with deletion by shifting back, so that there are no tombstones and no table ever degrades.
#include "match.h"

#include <errno.h>

#define MASK (MCR_MATCH_BUCKETS - 1)

_Static_assert((MCR_MATCH_BUCKETS & MASK) == 0, "buckets are a power of two");

void mcr_match_init(struct mcr_match *match)
{
	match->used = match->sourced = 0;
	match->spare = MCR_NO_RULE;
	match->unused = MCR_MAX_RULES;
	for (uint32_t i = 0; i < MCR_MATCH_BUCKETS; i++)
		match->buckets[i] = (struct mcr_match_bucket){ .slot = MCR_NO_RULE };
}

int mcr_match_put(struct mcr_match *match, uint32_t slot, uint32_t rule)
{
	const struct mcr_flow *flow = &match->rules[slot].flow;
	struct mcr_match_bucket *bucket = &match->buckets[mcr_match_bucket(match, flow)];

	if (bucket->slot == MCR_NO_RULE) {
		if (match->used == MCR_MAX_RULES)
			return -ENOSPC;
		match->used++;
		match->sourced += mcr_flow_has_source(flow);
	}
	match->rules[slot].rule = rule;
	*bucket = (struct mcr_match_bucket){ .hash = mcr_flow_hash(flow), .slot = slot };
	return 0;
}

int mcr_match_drop(struct mcr_match *match, const struct mcr_flow *flow)
{
	uint32_t hole = mcr_match_bucket(match, flow), at;

	if (match->buckets[hole].slot == MCR_NO_RULE)
		return -ENOENT;
	match->used--;
	match->sourced -= mcr_flow_has_source(flow);
	/* Move back what would no longer be found past the hole. */
	for (at = (hole + 1) & MASK; match->buckets[at].slot != MCR_NO_RULE; at = (at + 1) & MASK) {
		uint32_t wanted = match->buckets[at].hash & MASK;

		if (((at - wanted) & MASK) >= ((at - hole) & MASK)) {
			match->buckets[hole] = match->buckets[at];
			hole = at;
		}
	}
	match->buckets[hole] = (struct mcr_match_bucket){ .slot = MCR_NO_RULE };
	return 0;
}

uint32_t mcr_match_take_spare(struct mcr_match *match)
{
	uint32_t slot = match->spare;

	if (slot == MCR_NO_RULE)
		return match->unused < 2 * MCR_MAX_RULES ? match->unused++ : MCR_NO_RULE;
	match->spare = match->rules[slot].more;
	return slot;
}

void mcr_match_give_spare(struct mcr_match *match, uint32_t slot)
{
	match->rules[slot].more = match->spare;
	match->spare = slot;
}
