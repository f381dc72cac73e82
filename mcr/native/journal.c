// SPDX-License-Identifier: MIT
#include "journal.h"

#include <assert.h>

#include "ring.h"

/* One word, so that entering a phase is one store: phase, capture, slots. */
static uint64_t pack(struct mcr_journal_state state)
{
	return (uint64_t)state.phase | (uint64_t)state.capture << 8 | (uint64_t)state.slots << 32;
}

void mcr_journal_enter(struct mcr_segment *segment, struct mcr_journal_state state)
{
	mcr_store_release(&segment->journal.state, pack(state));
}

struct mcr_journal_state mcr_journal_state(const struct mcr_segment *segment)
{
	uint64_t word = mcr_load_acquire(&segment->journal.state);

	return (struct mcr_journal_state){
		.phase = (enum mcr_phase)(word & 0xff),
		.capture = (uint32_t)(word >> 8 & 0xff),
		.slots = (uint32_t)(word >> 32),
	};
}

void mcr_journal_clear(struct mcr_segment *segment)
{
	segment->journal.count = 0;
}

void mcr_journal_note(struct mcr_segment *segment, const uint64_t *counter, uint64_t value)
{
	struct mcr_journal *journal = &segment->journal;

	assert(journal->count < MCR_JOURNAL_ENTRIES);
	journal->entries[journal->count++] = (struct mcr_journal_entry){
		.offset = (uint64_t)((const uint8_t *)counter - (const uint8_t *)segment),
		.value = value,
	};
}

int mcr_journal_apply(struct mcr_segment *segment)
{
	const struct mcr_journal *journal = &segment->journal;

	if (journal->count > MCR_JOURNAL_ENTRIES)
		return -EBADMSG;
	for (uint64_t i = 0; i < journal->count; i++) {
		uint64_t offset = journal->entries[i].offset;

		if (offset % 8 || offset >= offsetof(struct mcr_segment, rule_data))
			return -EBADMSG;
		mcr_store_relaxed((uint64_t *)((uint8_t *)segment + offset), journal->entries[i].value);
	}
	return 0;
}

void mcr_journal_settle(struct mcr_segment *segment, uint32_t capture)
{
	struct mcr_journal_state state = mcr_journal_state(segment);

	if (state.phase == MCR_PHASE_IDLE || state.capture != capture)
		return;
	if (state.phase == MCR_PHASE_COMMIT)
		mcr_journal_apply(segment);
	mcr_journal_enter(segment, (struct mcr_journal_state){ MCR_PHASE_IDLE, 0, 0 });
}
