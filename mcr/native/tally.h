/* SPDX-License-Identifier: MIT */
/* Adds the outcomes of one batch to the counters, through the journal. */
#ifndef MCR_TALLY_H
#define MCR_TALLY_H

#include "batch.h"

/* Add the outcomes up, and put every counter that changes, with its new value, into the journal. */
void mcr_tally_note(struct mcr_batch *batch, const struct mcr_rules *rules, struct mcr_segment *segment);

#endif
