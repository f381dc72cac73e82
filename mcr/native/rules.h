/* SPDX-License-Identifier: MIT */
/* The rules a worker holds: match table, rules, outputs. Allocates nothing after set-up. */
#ifndef MCR_RULES_H
#define MCR_RULES_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "match.h"
#include "shm_abi.h"

#define MCR_NO_OUTPUT UINT32_MAX

/* What the current batch adds to an output's counters. */
struct mcr_output_tally {
	uint32_t sent;
	uint32_t errors;
	uint32_t in_doubt;
	uint32_t last_error;
	uint64_t bytes;
};

struct mcr_output {
	struct sockaddr_in to;
	uint32_t source;    /* of raw frames to it, network byte order; 0: they may not be sent */
	uint32_t egress;    /* slot of the sockets that it is sent by */
	uint32_t next;      /* the rule's next output, or MCR_NO_OUTPUT */
	uint32_t max_train; /* datagrams in one sendmsg; 1: no trains */
	uint32_t refused;   /* epoch in which a raw frame to it was refused */
	uint32_t cut;       /* epoch in which a train to it was; 0: none has been */
	struct mcr_output_tally tally;
};

struct mcr_rule {
	uint64_t key;
	uint32_t first; /* output */
	uint32_t output_count;
	bool held;

	/* The current batch. */
	uint32_t payload_count;
	uint32_t first_payload;
	uint32_t last_payload;
};

struct mcr_rules {
	struct mcr_match match;
	struct mcr_rule rules[MCR_MAX_RULES];
	struct mcr_output outputs[MCR_MAX_OUTPUTS];
	uint32_t epoch; /* a second or so, from 1 on: what was refused in one is tried again in the next */
};

void mcr_rules_init(struct mcr_rules *rules);

/*
 * Add a rule, or put it in the place of what its slot holds. Counters in `segment` start at zero unless they bear
 * the rule's tag already, as they do for the successor of a dead worker.
 * 0, -EINVAL for a slot out of range, -ENOSPC for a full table.
 */
int mcr_rules_put(struct mcr_rules *rules, struct mcr_segment *segment, const struct mcr_rec_rule *record,
		  const struct mcr_rec_output *outputs);

/* 0, -EINVAL for a slot out of range, -ENOENT for one that holds no rule. */
int mcr_rules_drop(struct mcr_rules *rules, const struct mcr_rec_rule *record);

#endif
