// SPDX-License-Identifier: MIT
#include "tally.h"

#include <errno.h>
#include <string.h>

#include "journal.h"
#include "ring.h"

void mcr_tally_match(struct mcr_tally *tally, struct mcr_rules *rules, uint32_t rule)
{
	tally->add.matched++;
	if (!rules->rules[rule].matched++)
		tally->rules[tally->rule_count++] = rule;
}

void mcr_tally_owe(struct mcr_tally *tally, struct mcr_rules *rules, uint32_t output)
{
	tally->add.submitted++;
	if (!rules->outputs[output].tally.submitted++)
		tally->outputs[tally->output_count++] = output;
}

void mcr_tally_send(struct mcr_tally *tally, struct mcr_rules *rules, uint32_t output, int result)
{
	struct mcr_output_tally *add = &rules->outputs[output].tally;

	if (result >= 0) {
		add->sent++;
		add->bytes += (uint64_t)result;
		tally->add.sent++;
		tally->add.bytes += (uint64_t)result;
		return;
	}
	add->errors++;
	tally->add.errors++;
	if (result == -ECANCELED) {
		add->in_doubt++;
		tally->add.in_doubt++;
	} else {
		add->last_error = (uint32_t)-result;
	}
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

static void note_output(struct mcr_segment *segment, const struct mcr_output_counters *counters,
			const struct mcr_output_tally *add)
{
	note_sum(segment, &counters->submitted, add->submitted);
	note_sum(segment, &counters->sent, add->sent);
	note_sum(segment, &counters->errors, add->errors);
	note_sum(segment, &counters->in_doubt, add->in_doubt);
	note_sum(segment, &counters->bytes, add->bytes);
	if (add->last_error)
		mcr_journal_note(segment, &counters->last_error, add->last_error);
}

void mcr_tally_note(struct mcr_tally *tally, struct mcr_rules *rules, struct mcr_segment *segment)
{
	note_totals(segment, &tally->add);
	for (uint32_t i = 0; i < tally->rule_count; i++) {
		struct mcr_rule *rule = &rules->rules[tally->rules[i]];

		note_sum(segment, &segment->rules[tally->rules[i]].matched, rule->matched);
		rule->matched = 0;
	}
	for (uint32_t i = 0; i < tally->output_count; i++) {
		struct mcr_output *output = &rules->outputs[tally->outputs[i]];

		note_output(segment, &segment->outputs[tally->outputs[i]], &output->tally);
		output->tally = (struct mcr_output_tally){ 0 };
	}
	memset(&tally->add, 0, sizeof(tally->add));
	tally->rule_count = 0;
	tally->output_count = 0;
}
