// SPDX-License-Identifier: MIT
#include "tally.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "journal.h"
#include "ring.h"

void mcr_tally_match(struct mcr_tally *tally, const struct mcr_rules *rules, uint32_t rule)
{
	tally->add.matched++;
	tally->add.submitted += rules->rules[rule].output_count;
	if (!rules->rules[rule].payload_count) {
		tally->rules[tally->rule_count++] = rule;
		tally->output_count += rules->rules[rule].output_count;
	}
}

void mcr_tally_sent(struct mcr_tally *tally, struct mcr_output *output, uint32_t datagrams, uint64_t bytes)
{
	output->tally.sent += datagrams;
	output->tally.bytes += bytes;
	tally->add.sent += datagrams;
	tally->add.bytes += bytes;
}

void mcr_tally_failed(struct mcr_tally *tally, struct mcr_output *output, uint32_t datagrams, int error)
{
	output->tally.errors += datagrams;
	tally->add.errors += datagrams;
	if (error == ECANCELED) {
		output->tally.in_doubt += datagrams;
		tally->add.in_doubt += datagrams;
	} else {
		output->tally.last_error = (uint32_t)error;
	}
}

/* With its time, so that of several workers' the newest can be told. */
static uint64_t stamped(uint32_t error)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return ((uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000) << 16 | (error & 0xffff);
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

static void note_output(struct mcr_segment *segment, const struct mcr_output_counters *counters, uint32_t submitted,
			const struct mcr_output_tally *add)
{
	note_sum(segment, &counters->submitted, submitted);
	note_sum(segment, &counters->sent, add->sent);
	note_sum(segment, &counters->errors, add->errors);
	note_sum(segment, &counters->in_doubt, add->in_doubt);
	note_sum(segment, &counters->bytes, add->bytes);
	if (add->last_error)
		mcr_journal_note(segment, &counters->last_error, stamped(add->last_error));
}

static void note_rule(struct mcr_segment *segment, struct mcr_rules *rules, uint32_t index)
{
	struct mcr_rule *rule = &rules->rules[index];

	note_sum(segment, &segment->rules[index].matched, rule->payload_count);
	for (uint32_t at = rule->first; at != MCR_NO_OUTPUT; at = rules->outputs[at].next) {
		note_output(segment, &segment->outputs[at], rule->payload_count, &rules->outputs[at].tally);
		rules->outputs[at].tally = (struct mcr_output_tally){ 0 };
	}
	rule->payload_count = 0;
}

void mcr_tally_note(struct mcr_tally *tally, struct mcr_rules *rules, struct mcr_segment *segment, uint32_t capture)
{
	note_totals(segment, &tally->add);
	note_causes(segment, segment->totals.causes, &tally->add);
	note_sum(segment, &segment->captures[capture].recv, tally->add.recv);
	note_causes(segment, segment->captures[capture].causes, &tally->add);
	for (uint32_t i = 0; i < tally->rule_count; i++)
		note_rule(segment, rules, tally->rules[i]);
	memset(&tally->add, 0, sizeof(tally->add));
	tally->rule_count = 0;
	tally->output_count = 0;
}
