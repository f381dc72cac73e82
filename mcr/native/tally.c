// SPDX-License-Identifier: MIT
#include "tally.h"

#include "clock.h"
#include "journal.h"
#include "ring.h"

/* Datagrams that matched, and what became of each at its rule's outputs. */
static void add_up(struct mcr_batch *batch, const struct mcr_rules *rules)
{
	struct mcr_totals *add = &batch->add;

	add->matched = batch->payload_count;
	for (uint32_t i = 0; i < batch->share_count; i++)
		add->submitted += batch->shares[i].payload_count *
				  rules->match.rules[batch->shares[i].rule].output_count;
	for (uint32_t i = 0; i < batch->outcome_count; i++) {
		add->sent += batch->outcomes[i].sent;
		add->errors += batch->outcomes[i].errors;
		add->in_doubt += batch->outcomes[i].in_doubt;
		add->bytes += batch->outcomes[i].bytes;
	}
}

/* With its time, so that of several workers' the newest can be told. */
static uint64_t stamped(uint32_t error)
{
	return mcr_clock_ns(CLOCK_MONOTONIC) / 1000 << 16 | (error & 0xffff);
}

static void note_sum(struct mcr_segment *segment, const uint64_t *counter, uint64_t add)
{
	if (add)
		mcr_journal_note(segment, counter, mcr_load_relaxed(counter) + add);
}

static void note_totals(struct mcr_segment *segment, const struct mcr_totals *add)
{
	const struct mcr_totals *totals = &segment->totals;

	note_sum(segment, &totals->recv, add->recv);
	note_sum(segment, &totals->matched, add->matched);
	note_sum(segment, &totals->parse_err, add->parse_err);
	note_sum(segment, &totals->no_match, add->no_match);
	note_sum(segment, &totals->buf_exhaust, add->buf_exhaust);
	note_sum(segment, &totals->submitted, add->submitted);
	note_sum(segment, &totals->sent, add->sent);
	note_sum(segment, &totals->errors, add->errors);
	note_sum(segment, &totals->in_doubt, add->in_doubt);
	note_sum(segment, &totals->bytes, add->bytes);
}

static void note_causes(struct mcr_segment *segment, const uint64_t *counters, const struct mcr_totals *add)
{
	for (uint32_t cause = 0; add->parse_err && cause < MCR_CAUSES; cause++)
		note_sum(segment, &counters[cause], add->causes[cause]);
}

static void note_capture(struct mcr_segment *segment, const struct mcr_capture_counters *counters,
			 const struct mcr_totals *add)
{
	note_sum(segment, &counters->recv, add->recv);
	note_sum(segment, &counters->matched, add->matched);
	note_sum(segment, &counters->no_match, add->no_match);
	note_sum(segment, &counters->buf_exhaust, add->buf_exhaust);
	note_causes(segment, counters->causes, add);
}

static void note_output(struct mcr_segment *segment, const struct mcr_output_counters *counters, uint32_t submitted,
			const struct mcr_outcome *add)
{
	note_sum(segment, &counters->submitted, submitted);
	note_sum(segment, &counters->sent, add->sent);
	note_sum(segment, &counters->errors, add->errors);
	note_sum(segment, &counters->in_doubt, add->in_doubt);
	note_sum(segment, &counters->bytes, add->bytes);
	if (add->last_error)
		mcr_journal_note(segment, &counters->last_error, stamped(add->last_error));
}

static void note_share(struct mcr_segment *segment, const struct mcr_rules *rules, const struct mcr_batch *batch,
		       const struct mcr_share *share)
{
	const struct mcr_outcome *outcome = &batch->outcomes[share->first_outcome];

	note_sum(segment, &segment->rules[share->rule].matched, share->payload_count);
	for (uint32_t at = rules->match.rules[share->rule].first; at != MCR_NO_OUTPUT; at = rules->outputs[at].next)
		note_output(segment, &segment->outputs[at], share->payload_count, outcome++);
}

void mcr_tally_note(struct mcr_batch *batch, const struct mcr_rules *rules, struct mcr_segment *segment)
{
	const struct mcr_totals *add = &batch->add;

	add_up(batch, rules);
	note_totals(segment, add);
	note_causes(segment, segment->totals.causes, add);
	note_capture(segment, &segment->captures[batch->capture], add);
	for (uint32_t i = 0; i < batch->share_count; i++)
		note_share(segment, rules, batch, &batch->shares[i]);
}
