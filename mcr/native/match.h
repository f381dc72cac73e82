/* SPDX-License-Identifier: MIT */
/* Flow key to rule: an open-addressed hash table of fixed size. Pure; allocates nothing. */
#ifndef MCR_MATCH_H
#define MCR_MATCH_H

#include <stdint.h>

#include "shm_abi.h"

#define MCR_MATCH_BUCKETS (2 * MCR_MAX_RULES) /* at most half full, so a probe is one or two buckets */
#define MCR_NO_RULE       UINT32_MAX

struct mcr_match_bucket {
	uint64_t key;
	uint32_t rule; /* MCR_NO_RULE: free */
};

struct mcr_match {
	uint32_t used;
	struct mcr_match_bucket buckets[MCR_MATCH_BUCKETS];
};

/* A rule's input tuple in one word: capture slot, group and port (the latter two in network byte order). */
static inline uint64_t mcr_match_key(uint32_t capture, uint32_t group, uint16_t port)
{
	return (uint64_t)capture << 48 | (uint64_t)port << 32 | group;
}

void mcr_match_init(struct mcr_match *match);

/* Insert or replace. 0, or -ENOSPC when MCR_MAX_RULES keys are held. */
int mcr_match_put(struct mcr_match *match, uint64_t key, uint32_t rule);

/* 0, or -ENOENT. */
int mcr_match_drop(struct mcr_match *match, uint64_t key);

/* The rule of a key, or MCR_NO_RULE. */
uint32_t mcr_match_find(const struct mcr_match *match, uint64_t key);

#endif
