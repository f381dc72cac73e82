// SPDX-License-Identifier: MIT
#include "gather.h"

#include <errno.h>
#include <time.h>

#include "journal.h"
#include "packet.h"
#include "sanity.h"

#define SAMPLE_PACKETS 100000   /* received between two samples on the event ring */
#define MAX_HEADERS    (60 + 8) /* bytes, of IPv4 with all options, and of UDP */

/* Each datagram of a frame that matched: one, or a super-frame's. */
static void add_payloads(struct mcr_worker *worker, uint32_t index, const struct mcr_frame *frame,
			 const struct mcr_packet *packet)
{
	struct mcr_rule *rule = &worker->rules.rules[index];
	uint32_t segment = frame->segment ? frame->segment : packet->payload_size, done = 0;

	do { /* an empty datagram is one, too */
		uint32_t left = packet->payload_size - done, size = left < segment ? left : segment;

		worker->tally.add.recv++;
		mcr_tally_match(&worker->tally, &worker->rules, index);
		mcr_batch_add(&worker->batch, rule, frame->data + packet->payload + done, size);
		done += size;
	} while (done < packet->payload_size);
}

/* Datagrams in a frame. */
static uint32_t datagrams(const struct mcr_frame *frame, const struct mcr_packet *packet)
{
	return frame->segment && packet->payload_size ? (packet->payload_size - 1) / frame->segment + 1 : 1;
}

static void take_unmatched(struct mcr_worker *worker, uint32_t slot, const struct mcr_packet *packet, uint32_t count)
{
	worker->tally.add.recv += count;
	worker->tally.add.no_match += count;
	mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_DEBUG, MCR_LOG_NO_MATCH, slot, packet->group,
		       packet->port);
}

static void drop(struct mcr_worker *worker, enum mcr_cause cause, uint32_t count)
{
	worker->tally.add.recv += count;
	worker->tally.add.parse_err += count;
	worker->tally.add.causes[cause] += count;
}

static void take_malformed(struct mcr_worker *worker, uint32_t slot, const struct mcr_frame *frame, int error)
{
	drop(worker, error == EOPNOTSUPP ? MCR_CAUSE_FRAGMENT : MCR_CAUSE_MALFORMED, 1);
	mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_DEBUG, MCR_LOG_PARSE_ERROR, slot, (uint64_t)error,
		       frame->wire_size);
}

/* A rule wants it, and it may not be relayed. */
static void take_unsound(struct mcr_worker *worker, uint32_t slot, const struct mcr_packet *packet,
			 enum mcr_cause cause, uint32_t count)
{
	drop(worker, cause, count);
	if (cause == MCR_CAUSE_LOOP)
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_WARNING, MCR_LOG_LOOP, slot,
			       packet->group | (uint64_t)packet->port << 32, packet->source);
	else
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_DEBUG, MCR_LOG_DROPPED, slot, cause,
			       packet->source);
}

/* The headers are there, and with them the number of datagrams that are lost: a slot is longer than any headers. */
static void take_clipped(struct mcr_worker *worker, uint32_t slot, const struct mcr_frame *frame)
{
	struct mcr_packet packet;
	bool whole = frame->network <= frame->size && frame->size - frame->network >= MAX_HEADERS;
	int ret = whole ? mcr_packet_parse(frame->data, frame->wire_size, frame->network, &packet) : -EMSGSIZE;
	uint32_t count = ret ? 1 : datagrams(frame, &packet);

	worker->tally.add.recv += count;
	worker->tally.add.buf_exhaust += count;
	mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_WARNING, MCR_LOG_NO_BUFFER, slot, 0,
		       frame->wire_size);
}

/* The datagrams of a super-frame can't be told from each other: all are lost. */
static void take_uncut(struct mcr_worker *worker, uint32_t slot, const struct mcr_frame *frame)
{
	worker->tally.add.recv += frame->uncut;
	worker->tally.add.buf_exhaust += frame->uncut;
	mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_WARNING, MCR_LOG_UNCUT, slot, 0, frame->wire_size);
}

static void take_matched(struct mcr_worker *worker, uint32_t rule, const struct mcr_frame *frame,
			 const struct mcr_packet *packet)
{
	add_payloads(worker, rule, frame, packet);
	mcr_log_folded(&worker->log, MCR_FACILITY_EGRESS, MCR_LEVEL_TRACE, MCR_LOG_FORWARDED, rule,
		       worker->rules.rules[rule].output_count, packet->payload_size);
}

/* Find what a frame is, and count what is in it. */
static void take(struct mcr_worker *worker, uint32_t slot, struct mcr_frame *frame)
{
	struct mcr_packet packet;
	enum mcr_cause cause;
	uint32_t rule, count;
	int ret;

	if (frame->uncut) {
		take_uncut(worker, slot, frame);
		return;
	}
	if (frame->wire_size > frame->size &&
	    mcr_oversize_fetch(&worker->oversize, &worker->captures[slot], frame) < 0) {
		take_clipped(worker, slot, frame);
		return;
	}
	ret = mcr_packet_parse(frame->data, frame->size, frame->network, &packet);
	count = ret ? 0 : datagrams(frame, &packet);
	if (ret || count > MCR_FRAME_PAYLOADS) {
		take_malformed(worker, slot, frame, ret ? -ret : EBADMSG);
		return;
	}
	rule = mcr_match_find(&worker->rules.match, mcr_match_key(slot, packet.group, packet.port));
	if (rule == MCR_NO_RULE) {
		take_unmatched(worker, slot, &packet, count);
		return;
	}
	cause = mcr_sanity_check(frame, &packet, &worker->own);
	if (cause == MCR_CAUSE_NONE)
		take_matched(worker, rule, frame, &packet);
	else
		take_unsound(worker, slot, &packet, cause, count);
}

/* Whether the batch can take one more frame, whatever is in it. */
static bool has_room(const struct mcr_worker *worker)
{
	return worker->batch.payload_count + MCR_FRAME_PAYLOADS <= MCR_BATCH_PAYLOADS &&
	       worker->tally.output_count + MCR_MAX_RULE_OUTPUTS <= MCR_BATCH_OUTPUTS &&
	       worker->oversize.taken < MCR_BATCH_OVERSIZE;
}

/* A dead predecessor had these in hand: whether they left is not known, and they don't leave again. */
static void give_up(struct mcr_worker *worker)
{
	for (uint32_t i = 0; i < worker->tally.rule_count; i++) {
		const struct mcr_rule *rule = &worker->rules.rules[worker->tally.rules[i]];

		for (uint32_t at = rule->first; at != MCR_NO_OUTPUT; at = worker->rules.outputs[at].next)
			mcr_tally_failed(&worker->tally, &worker->rules.outputs[at], rule->payload_count, ECANCELED);
	}
}

/*
 * Frames of one batch, at most: half a ring, so that the kernel has room while they are sent. A batch never goes round
 * the ring: it would find its own first frames again.
 */
static uint32_t batch_limit(const struct mcr_worker *worker, const struct mcr_capture *capture)
{
	uint32_t limit = worker->segment->header.batch, half = capture->frame_count > 1 ? capture->frame_count / 2 : 1;

	if (limit > MCR_BATCH_SLOTS)
		limit = MCR_BATCH_SLOTS;
	if (limit > half)
		limit = half;
	if (capture->in_doubt && capture->in_doubt < limit)
		limit = capture->in_doubt; /* a batch is in doubt as a whole, or not at all */
	return limit;
}

uint32_t mcr_forward_gather(struct mcr_worker *worker, uint32_t slot)
{
	struct mcr_capture *capture = &worker->captures[slot];
	uint32_t taken = 0, limit = batch_limit(worker, capture);
	struct mcr_frame frame;

	mcr_batch_clear(&worker->batch);
	worker->oversize.taken = 0;
	while (taken < limit && has_room(worker) && mcr_capture_frame(capture, taken, &frame)) {
		take(worker, slot, &frame);
		taken++;
	}
	/* From here on a successor must not send these again. */
	if (taken)
		mcr_journal_enter(worker->segment, (struct mcr_journal_state){ MCR_PHASE_SENDING, slot, taken });
	if (capture->in_doubt)
		give_up(worker);
	mcr_plan_start(&worker->plan, worker->tally.rules, capture->in_doubt ? 0 : worker->tally.rule_count);
	return taken;
}

void mcr_forward_sent(struct mcr_worker *worker, const struct mcr_send *send, int result)
{
	struct mcr_output *output = &worker->rules.outputs[send->output];

	if (result >= 0) {
		mcr_tally_sent(&worker->tally, output, send->count,
			       (uint64_t)result - (send->raw ? sizeof(struct mcr_raw_header) : 0));
		return;
	}
	mcr_tally_failed(&worker->tally, output, send->count, -result);
	mcr_log_folded(&worker->log, MCR_FACILITY_EGRESS, MCR_LEVEL_WARNING, MCR_LOG_SEND_FAILED, send->output,
		       (uint64_t)-result, send->payloads->iov_len);
}

void mcr_forward_train_refused(struct mcr_worker *worker, const struct mcr_send *send, int result)
{
	struct mcr_output *output = &worker->rules.outputs[send->output];
	bool told = output->cut;

	output->cut = worker->rules.epoch;
	if (told)
		return;
	mcr_log_folded(&worker->log, MCR_FACILITY_EGRESS, MCR_LEVEL_NOTICE, MCR_LOG_TRAIN_REFUSED, send->output,
		       (uint64_t)-result, 0);
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
	mcr_tally_note(&worker->tally, &worker->rules, segment, slot);
	mcr_journal_note(segment, &segment->captures[slot].cursor, capture->cursor);
	mcr_journal_enter(segment, (struct mcr_journal_state){ MCR_PHASE_COMMIT, slot, slots });
	mcr_journal_apply(segment);
	mcr_capture_mark(capture, slots);
	mcr_journal_enter(segment, (struct mcr_journal_state){ MCR_PHASE_RELEASING, slot, slots });
	mcr_capture_release(capture, slots);
	mcr_journal_enter(segment, (struct mcr_journal_state){ MCR_PHASE_IDLE, 0, 0 });
	sample(worker);
}
