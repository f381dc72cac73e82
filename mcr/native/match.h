/* SPDX-License-Identifier: MIT */
/*
 * Flow to rule: an open-addressed hash table of fixed size. Pure; allocates nothing. A bucket has the hash of a flow and
 * its rule's slot, so many stand in a cache line; the flow itself stands in the rule, which is needed next anyway.
 */
#ifndef MCR_MATCH_H
#define MCR_MATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "flow.h"
#include "shm_abi.h"

#define MCR_MATCH_BUCKETS (2 * MCR_MAX_RULES) /* at most half full, so a probe is one or two buckets */
#define MCR_NO_RULE       UINT32_MAX

struct mcr_match_bucket {
	uint32_t hash;
	uint32_t rule; /* MCR_NO_RULE: free */
};

struct mcr_rule {
	_Alignas(MCR_CACHE_LINE) struct mcr_flow flow;
	uint32_t first; /* output */
	uint32_t output_count;
	bool held;
	bool keeps; /* some output keeps something of the headers that datagrams come with */
};

struct mcr_match {
	uint32_t used;
	struct mcr_match_bucket buckets[MCR_MATCH_BUCKETS];
	struct mcr_rule rules[MCR_MAX_RULES]; /* by slot */
};

void mcr_match_init(struct mcr_match *match);

/* Have this rule found by its flow, in the place of any other. 0, or -ENOSPC when MCR_MAX_RULES flows are held. */
int mcr_match_put(struct mcr_match *match, uint32_t rule);

/* 0, or -ENOENT. */
int mcr_match_drop(struct mcr_match *match, const struct mcr_flow *flow);

/* The bucket of a flow, or the free one where it would be. */
static inline uint32_t mcr_match_bucket(const struct mcr_match *match, const struct mcr_flow *flow)
{
	uint32_t hash = mcr_flow_hash(flow), at = hash % MCR_MATCH_BUCKETS;
	const struct mcr_match_bucket *bucket = &match->buckets[at];

	while (bucket->rule != MCR_NO_RULE &&
	       (bucket->hash != hash || !mcr_flow_equal(&match->rules[bucket->rule].flow, flow))) {
		at = (at + 1) % MCR_MATCH_BUCKETS;
		bucket = &match->buckets[at];
	}
	return at;
}

/* The rule of a flow, or MCR_NO_RULE. */
static inline uint32_t mcr_match_find(const struct mcr_match *match, const struct mcr_flow *flow)
{
	return match->buckets[mcr_match_bucket(match, flow)].rule;
}

#endif
