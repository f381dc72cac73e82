/* SPDX-License-Identifier: MIT */
/* What one batch adds to the counters. Collected in private memory, then written through the journal. */
#ifndef MCR_TALLY_H
#define MCR_TALLY_H

#include <stdint.h>

#include "rules.h"
#include "shm_abi.h"

struct mcr_tally {
	struct mcr_totals add;             /* log_dropped is the log's own and stays 0 here */
	uint32_t rule_count, output_count; /* touched in this batch */
	uint32_t rules[MCR_BATCH_SLOTS];
	uint32_t outputs[MCR_BATCH_SENDS];
};

void mcr_tally_match(struct mcr_tally *tally, struct mcr_rules *rules, uint32_t rule);

/* One datagram is owed to one output. */
void mcr_tally_owe(struct mcr_tally *tally, struct mcr_rules *rules, uint32_t output);

/* One send's outcome: `result` is the payload bytes sent, or -errno; -ECANCELED means in doubt. */
void mcr_tally_send(struct mcr_tally *tally, struct mcr_rules *rules, uint32_t output, int result);

/* Put every counter that changes, with its new value, into the journal; the tally starts again at zero. */
void mcr_tally_note(struct mcr_tally *tally, struct mcr_rules *rules, struct mcr_segment *segment);

#endif
