/* SPDX-License-Identifier: MIT */
/* What one batch adds to the counters. Collected in private memory, then written through the journal. */
#ifndef MCR_TALLY_H
#define MCR_TALLY_H

#include <stdint.h>

#include "rules.h"
#include "shm_abi.h"

struct mcr_tally {
	struct mcr_totals add; /* log_dropped is the log's own and stays 0 here */
	uint32_t rule_count;   /* rules that have packets in this batch */
	uint32_t output_count; /* outputs of those rules */
	uint32_t rules[MCR_BATCH_SLOTS];
};

/* A datagram of this batch matched a rule: each of its outputs is owed one. Before its payload is added. */
void mcr_tally_match(struct mcr_tally *tally, const struct mcr_rules *rules, uint32_t rule);

/* So many datagrams of so many payload bytes together left by an output. */
void mcr_tally_sent(struct mcr_tally *tally, struct mcr_output *output, uint32_t datagrams, uint64_t bytes);

/* So many datagrams did not leave by an output. ECANCELED means in doubt. */
void mcr_tally_failed(struct mcr_tally *tally, struct mcr_output *output, uint32_t datagrams, int error);

/* Put every counter that changes, with its new value, into the journal; the tally starts again at zero. `capture`: whose
 * batch it was. */
void mcr_tally_note(struct mcr_tally *tally, struct mcr_rules *rules, struct mcr_segment *segment, uint32_t capture);

#endif
