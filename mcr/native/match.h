/* SPDX-License-Identifier: MIT */
/*
 * Flow to rule: an open-addressed hash table of fixed size. Pure; allocates nothing. A bucket has the hash of a flow and
 * its slot, so many stand in a cache line; the flow itself stands in the rule, which is needed next anyway. A rule that
 * takes several flows has slots of its own for the others, which say whose they are.
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
	uint32_t slot; /* of a flow; MCR_NO_RULE: free */
};

/* A rule, by its slot; behind those of all rules, slots for further flows of rules. */
struct mcr_rule {
	_Alignas(MCR_CACHE_LINE) struct mcr_flow flow;
	uint32_t rule;  /* slot of the rule that takes the flow: this one, or another */
	uint32_t more;  /* slot of the rule's next flow, or MCR_NO_RULE */
	uint32_t first; /* output */
	uint32_t output_count;
	uint16_t group; /* of the flow, its place among the groups of the rule */
	uint16_t port;  /* likewise */
	bool held;
	uint8_t keeps; /* what some output keeps of the headers that datagrams come with: MCR_KEEP_… */
};

_Static_assert(sizeof(struct mcr_rule) == MCR_CACHE_LINE, "a packet touches one cache line of its rule");

struct mcr_match {
	uint32_t used;    /* flows in the table */
	uint32_t sourced; /* of them from one source */
	uint32_t spare;   /* slot for a further flow, and by `more` the next one, or MCR_NO_RULE */
	uint32_t unused;  /* slots from here on have not been used yet */
	struct mcr_match_bucket buckets[MCR_MATCH_BUCKETS];
	struct mcr_rule rules[2 * MCR_MAX_RULES]; /* by slot */
};

void mcr_match_init(struct mcr_match *match);

/* Have the rule found by the flow in this slot, in the place of any other. 0, or -ENOSPC: MCR_MAX_RULES are held. */
int mcr_match_put(struct mcr_match *match, uint32_t slot, uint32_t rule);

/* A slot for a further flow, to be given back, or MCR_NO_RULE; there are as many as flows. */
uint32_t mcr_match_take_spare(struct mcr_match *match);
void mcr_match_give_spare(struct mcr_match *match, uint32_t slot);

/* 0, or -ENOENT. */
int mcr_match_drop(struct mcr_match *match, const struct mcr_flow *flow);

/* The bucket of a flow, or the free one where it would be. */
static inline uint32_t mcr_match_bucket(const struct mcr_match *match, const struct mcr_flow *flow)
{
	uint32_t hash = mcr_flow_hash(flow), at = hash % MCR_MATCH_BUCKETS;
	const struct mcr_match_bucket *bucket = &match->buckets[at];

	while (bucket->slot != MCR_NO_RULE &&
	       (bucket->hash != hash || !mcr_flow_equal(&match->rules[bucket->slot].flow, flow))) {
		at = (at + 1) % MCR_MATCH_BUCKETS;
		bucket = &match->buckets[at];
	}
	return at;
}

static inline uint32_t mcr_match_slot(const struct mcr_match *match, const struct mcr_flow *flow)
{
	return match->buckets[mcr_match_bucket(match, flow)].slot;
}

/*
 * The slot of a packet's flow, which has its source: one that names it goes before one that takes any. MCR_NO_RULE: none.
 * Where no rule names a source none is looked for. The slot says whose the flow is.
 */
static inline __attribute__((always_inline)) uint32_t mcr_match_find(const struct mcr_match *match,
								     const struct mcr_flow *flow)
{
	const struct mcr_flow any = mcr_flow_from_any(flow);
	uint32_t slot = match->sourced ? mcr_match_slot(match, flow) : MCR_NO_RULE;

	if (slot == MCR_NO_RULE)
		slot = mcr_match_slot(match, &any);
	return slot;
}

#endif
