/* SPDX-License-Identifier: MIT */
/*
 * A batch's write-ahead journal, so that kill -9 at any instruction leaves counters exact and sends nothing twice
 * (as long as the successor lives until it has counted what was in doubt).
 *
 *   IDLE       nothing in hand
 *   SENDING    the next `slots` slots of `capture` were handed to the kernel, the outcome is not known.
 *              A successor counts them as errors in doubt; it does not send them again.
 *   COMMIT     the outcome stands in `entries` as the counters' new values, the cursor among them.
 *              A successor writes them again, before anything else: it changes nothing to write a value twice. Then it
 *              forgets them.
 *   RELEASING  the counters are written; the slots before the cursor, each marked, are going back to the kernel.
 *              A successor gives back those that still bear the mark; see capture.h.
 */
#ifndef MCR_JOURNAL_H
#define MCR_JOURNAL_H

#include <stdint.h>

#include "shm_abi.h"

enum mcr_phase { MCR_PHASE_IDLE, MCR_PHASE_SENDING, MCR_PHASE_COMMIT, MCR_PHASE_RELEASING };

struct mcr_journal_state {
	enum mcr_phase phase;
	uint32_t capture;
	uint32_t slots;
};

void mcr_journal_enter(struct mcr_segment *segment, struct mcr_journal_state state);
struct mcr_journal_state mcr_journal_state(const struct mcr_segment *segment);

/* Forget the entries of the last batch. */
void mcr_journal_clear(struct mcr_segment *segment);

/* Add one entry: `counter`, inside `segment`, is to become `value`. */
void mcr_journal_note(struct mcr_segment *segment, const uint64_t *counter, uint64_t value);

/*
 * For the supervisor, when a capture goes while no worker is there to recover it: finish the counters if they were being
 * written, then forget the batch. What was in hand counts as not read.
 */
void mcr_journal_settle(struct mcr_segment *segment, uint32_t capture);

/* Write every entry's value. 0, or -EBADMSG if an entry points outside the segment. */
int mcr_journal_apply(struct mcr_segment *segment);

#endif
