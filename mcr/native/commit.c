// SPDX-License-Identifier: MIT
#include "commit.h"

#include "journal.h"
#include "tally.h"

#define SAMPLE_PACKETS 100000 /* received between two samples on the event ring */

static void enter(struct mcr_worker *worker, enum mcr_phase phase)
{
	const struct mcr_batch *batch = &worker->batch;

	mcr_journal_enter(worker->segment, (struct mcr_journal_state){ phase, batch->capture, batch->slots });
}

void mcr_commit_begin(struct mcr_worker *worker)
{
	enter(worker, MCR_PHASE_SENDING);
}

static void sample(struct mcr_worker *worker)
{
	uint64_t recv = mcr_load_relaxed(&worker->segment->totals.recv);

	if (recv - worker->sampled_at < SAMPLE_PACKETS)
		return;
	/* No room means that the supervisor is behind; the counters themselves are never lost. */
	if (!mcr_ring_push(&worker->events, MCR_REC_SAMPLE, NULL, 0))
		worker->log.written = true;
	worker->sampled_at = recv;
}

void mcr_commit(struct mcr_worker *worker)
{
	struct mcr_segment *segment = worker->segment;
	const struct mcr_batch *batch = &worker->batch;
	struct mcr_capture *capture = &worker->captures[batch->capture];

	capture->cursor += batch->slots;
	if (batch->in_doubt)
		capture->in_doubt -= batch->slots;

	mcr_journal_clear(segment);
	mcr_tally_note(&worker->batch, &worker->rules, segment);
	mcr_journal_note(segment, &segment->captures[batch->capture].cursor, capture->cursor);
	if (segment->captures[batch->capture].fragments != worker->reassembly.fragments[batch->capture])
		mcr_journal_note(segment, &segment->captures[batch->capture].fragments,
				 worker->reassembly.fragments[batch->capture]);
	enter(worker, MCR_PHASE_COMMIT);
	mcr_journal_apply(segment);
	mcr_capture_mark(capture, batch->slots);
	enter(worker, MCR_PHASE_RELEASING);
	mcr_capture_release(capture, batch->slots);
	mcr_journal_enter(segment, (struct mcr_journal_state){ MCR_PHASE_IDLE, 0, 0 });
	sample(worker);
}
