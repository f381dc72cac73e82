// SPDX-License-Identifier: MIT
#include "forward.h"

#include <errno.h>
#include <time.h>

#include "journal.h"
#include "packet.h"

#define SAMPLE_PACKETS 100000 /* received between two samples on the event ring */

static void plan_outputs(struct mcr_worker *worker, uint32_t index, const uint8_t *payload, uint32_t size, bool doubt)
{
	struct mcr_rules *rules = &worker->rules;
	const struct mcr_rule *rule = &rules->rules[index];

	mcr_tally_match(&worker->tally, rules, index);
	for (uint32_t at = rule->first; at != MCR_NO_OUTPUT; at = rules->outputs[at].next) {
		mcr_tally_owe(&worker->tally, rules, at);
		if (doubt)
			mcr_tally_send(&worker->tally, rules, at, -ECANCELED);
		else
			mcr_batch_add(&worker->batch, rules, at, payload, size);
	}
	if (mcr_log_enabled(&worker->log, MCR_FACILITY_EGRESS, MCR_LEVEL_TRACE))
		mcr_log(&worker->log, MCR_FACILITY_EGRESS, MCR_LEVEL_TRACE, MCR_LOG_FORWARDED, index,
			rule->output_count, size);
}

/* false: the packet's outputs don't fit in this batch any more. */
static bool take(struct mcr_worker *worker, uint32_t slot, const struct mcr_frame *frame, bool doubt)
{
	struct mcr_tally *tally = &worker->tally;
	struct mcr_packet packet;
	uint32_t rule;
	int ret;

	ret = mcr_packet_parse(frame->data, frame->size, frame->network, &packet);
	if (ret) {
		tally->add.recv++;
		tally->add.parse_err++;
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_DEBUG, MCR_LOG_PARSE_ERROR, slot,
			       (uint64_t)-ret, frame->wire_size);
		return true;
	}
	rule = mcr_match_find(&worker->rules.match, mcr_match_key(slot, packet.group, packet.port));
	if (rule == MCR_NO_RULE) {
		tally->add.recv++;
		tally->add.no_match++;
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_DEBUG, MCR_LOG_NO_MATCH, slot,
			       packet.group, packet.port);
		return true;
	}
	if (worker->rules.rules[rule].output_count > MCR_BATCH_SENDS - tally->add.submitted)
		return false;
	tally->add.recv++;
	plan_outputs(worker, rule, frame->data + packet.payload, packet.payload_size, doubt);
	return true;
}

uint32_t mcr_forward_gather(struct mcr_worker *worker, uint32_t slot)
{
	struct mcr_capture *capture = &worker->captures[slot];
	uint32_t taken = 0, limit = MCR_BATCH_SLOTS;
	struct mcr_frame frame;

	worker->batch.count = 0;
	if (capture->in_doubt && capture->in_doubt < limit)
		limit = capture->in_doubt; /* a batch is in doubt as a whole, or not at all */
	while (taken < limit && mcr_capture_frame(capture, taken, &frame)) {
		if (!take(worker, slot, &frame, capture->in_doubt != 0))
			break;
		taken++;
	}
	/* From here on a successor must not send these again. */
	if (taken)
		mcr_journal_enter(worker->segment, (struct mcr_journal_state){ MCR_PHASE_SENDING, slot, taken });
	return taken;
}

void mcr_forward_sent(struct mcr_worker *worker, uint32_t index, int result)
{
	const struct mcr_send *send = &worker->batch.sends[index];

	mcr_tally_send(&worker->tally, &worker->rules, send->output, result);
	if (result < 0)
		mcr_log_folded(&worker->log, MCR_FACILITY_EGRESS, MCR_LEVEL_WARNING, MCR_LOG_SEND_FAILED, send->output,
			       (uint64_t)-result, send->payload.iov_len);
}

static void sample(struct mcr_worker *worker)
{
	const struct mcr_totals *totals = &worker->segment->totals;
	struct mcr_rec_sample record = { .recv = mcr_load_relaxed(&totals->recv),
					 .sent = mcr_load_relaxed(&totals->sent) };
	struct timespec now;

	if (record.recv - worker->sampled_at < SAMPLE_PACKETS)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	record.time_ns = (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
	/* No room means that the supervisor is behind; the counters themselves are never lost. */
	if (!mcr_ring_push(&worker->events, MCR_REC_SAMPLE, &record, sizeof(record)))
		worker->log.written = true;
	worker->sampled_at = record.recv;
}

void mcr_forward_commit(struct mcr_worker *worker, uint32_t slot, uint32_t slots)
{
	struct mcr_segment *segment = worker->segment;
	struct mcr_capture *capture = &worker->captures[slot];

	capture->cursor += slots;
	capture->in_doubt -= capture->in_doubt ? slots : 0;

	mcr_journal_clear(segment);
	mcr_tally_note(&worker->tally, &worker->rules, segment);
	mcr_journal_note(segment, &segment->captures[slot].cursor, capture->cursor);
	mcr_journal_enter(segment, (struct mcr_journal_state){ MCR_PHASE_COMMIT, slot, slots });
	mcr_journal_apply(segment);
	mcr_capture_mark(capture, slots);
	mcr_journal_enter(segment, (struct mcr_journal_state){ MCR_PHASE_RELEASING, slot, slots });
	mcr_capture_release(capture, slots);
	mcr_journal_enter(segment, (struct mcr_journal_state){ MCR_PHASE_IDLE, 0, 0 });
	sample(worker);
}
