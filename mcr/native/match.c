// SPDX-License-Identifier: MIT
// Linear probing with deletion by shifting back, so that there are no tombstones and no table ever degrades.
#include "match.h"

#include <errno.h>

#define MASK (MCR_MATCH_BUCKETS - 1)

_Static_assert((MCR_MATCH_BUCKETS & MASK) == 0, "buckets are a power of two");

static uint32_t home(uint64_t key)
{
	/* Multiplicative hashing (Knuth, TAOCP 3, 6.4): the high bits are well mixed. */
	return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 40) & MASK;
}

static uint32_t bucket_of(const struct mcr_match *match, uint64_t key)
{
	uint32_t at = home(key);

	while (match->buckets[at].rule != MCR_NO_RULE && match->buckets[at].key != key)
		at = (at + 1) & MASK;
	return at;
}

void mcr_match_init(struct mcr_match *match)
{
	match->used = 0;
	for (uint32_t i = 0; i < MCR_MATCH_BUCKETS; i++)
		match->buckets[i] = (struct mcr_match_bucket){ .rule = MCR_NO_RULE };
}

int mcr_match_put(struct mcr_match *match, uint64_t key, uint32_t rule)
{
	struct mcr_match_bucket *bucket = &match->buckets[bucket_of(match, key)];

	if (bucket->rule == MCR_NO_RULE) {
		if (match->used == MCR_MAX_RULES)
			return -ENOSPC;
		match->used++;
	}
	*bucket = (struct mcr_match_bucket){ .key = key, .rule = rule };
	return 0;
}

int mcr_match_drop(struct mcr_match *match, uint64_t key)
{
	uint32_t hole = bucket_of(match, key), at;

	if (match->buckets[hole].rule == MCR_NO_RULE)
		return -ENOENT;
	match->used--;
	/* Move back what would no longer be found past the hole. */
	for (at = (hole + 1) & MASK; match->buckets[at].rule != MCR_NO_RULE; at = (at + 1) & MASK) {
		uint32_t wanted = home(match->buckets[at].key);

		if (((at - wanted) & MASK) >= ((at - hole) & MASK)) {
			match->buckets[hole] = match->buckets[at];
			hole = at;
		}
	}
	match->buckets[hole] = (struct mcr_match_bucket){ .rule = MCR_NO_RULE };
	return 0;
}

uint32_t mcr_match_find(const struct mcr_match *match, uint64_t key)
{
	return match->buckets[bucket_of(match, key)].rule;
}
