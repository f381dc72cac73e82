// SPDX-License-Identifier: MIT
#include "log.h"

#include "clock.h"

#define LOG_CLOCK   CLOCK_REALTIME_COARSE /* never a system call, whatever the clock is */
#define BUCKET_MASK (MCR_LOG_BUCKETS - 1)

_Static_assert((MCR_LOG_BUCKETS & BUCKET_MASK) == 0 && 2 * MCR_LOG_SUBJECTS <= MCR_LOG_BUCKETS, "a search ends soon");

void mcr_log_init(struct mcr_log *log, struct mcr_ring_end *events, uint64_t *dropped)
{
	log->events = events;
	log->dropped = dropped;
	for (unsigned int i = 0; i < MCR_FACILITIES; i++)
		log->level[i] = MCR_LEVEL_INFO;
}

static void write_record(struct mcr_log *log, const struct mcr_rec_log *record)
{
	if (mcr_ring_push(log->events, MCR_REC_LOG, record, sizeof(*record)))
		mcr_store_relaxed(log->dropped, mcr_load_relaxed(log->dropped) + 1);
	else
		log->written = true;
}

static struct mcr_rec_log make_record(enum mcr_facility facility, enum mcr_level level, enum mcr_log_code code,
				      uint64_t arg0, uint64_t arg1, uint64_t arg2)
{
	uint64_t now = mcr_clock_ns(LOG_CLOCK);

	return (struct mcr_rec_log){
		.time_ns = now,
		.first_ns = now,
		.repeats = 1,
		.subjects = 1,
		.code = (uint16_t)code,
		.level = (uint8_t)level,
		.facility = (uint8_t)facility,
		.args = { arg0, arg1, arg2 },
	};
}

void mcr_log(struct mcr_log *log, enum mcr_facility facility, enum mcr_level level, enum mcr_log_code code,
	     uint64_t arg0, uint64_t arg1, uint64_t arg2)
{
	struct mcr_rec_log record;

	if (!mcr_log_enabled(log, facility, level))
		return;
	record = make_record(facility, level, code, arg0, arg1, arg2);
	write_record(log, &record);
}

static uint64_t subject_of(const struct mcr_rec_log *record)
{
	if (record->code == MCR_LOG_NO_MATCH)
		return record->args[0] << 48 | record->args[2] << 32 | record->args[1];
	if (record->code == MCR_LOG_NO_MATCH6) /* so that two flows meet hardly ever */
		return record->args[0] ^ record->args[1] * UINT64_C(0x9e3779b97f4a7c15) ^
		       record->args[2] * UINT64_C(0xbf58476d1ce4e5b9);
	return record->args[0];
}

/* Subjects that have come in this round, this one included; no more than can be told apart. */
static uint32_t count_subject(struct mcr_log_subjects *subjects, uint64_t subject)
{
	uint32_t at = (uint32_t)((subject * UINT64_C(0x9e3779b97f4a7c15)) >> 40) & BUCKET_MASK;

	for (; subjects->buckets[at].round == subjects->round; at = (at + 1) & BUCKET_MASK)
		if (subjects->buckets[at].subject == subject)
			return subjects->count;
	if (subjects->count < MCR_LOG_SUBJECTS) {
		subjects->buckets[at].subject = subject;
		subjects->buckets[at].round = subjects->round;
		subjects->count++;
	}
	return subjects->count;
}

/* The fold for a subject: its own, or one that is free, or the one of all others. */
static struct mcr_log_fold *find_fold(struct mcr_log_folds *folds, const struct mcr_rec_log *record)
{
	struct mcr_log_fold *found = &folds->others;

	for (uint32_t i = MCR_LOG_NAMED; i-- > 0;) {
		struct mcr_log_fold *fold = &folds->named[i];

		if (!fold->taken)
			found = fold;
		else if (fold->pending.args[1] == record->args[1] && subject_of(&fold->pending) == subject_of(record))
			return fold;
	}
	return found;
}

static void hold_back(struct mcr_log_fold *fold, const struct mcr_rec_log *record, uint32_t subjects)
{
	uint64_t first_ns = fold->pending.repeats ? fold->pending.first_ns : record->first_ns;
	uint32_t repeats = fold->pending.repeats + 1;

	fold->pending = *record;
	fold->pending.first_ns = first_ns;
	fold->pending.repeats = repeats;
	fold->pending.subjects = subjects;
}

/* Write what is held back. A subject of which nothing is has been quiet, and its fold becomes free. */
static void write_folds(struct mcr_log *log, struct mcr_log_folds *folds, uint64_t now)
{
	for (uint32_t i = 0; i < MCR_LOG_NAMED; i++) {
		struct mcr_log_fold *fold = &folds->named[i];

		fold->taken = fold->pending.repeats;
		if (fold->pending.repeats)
			write_record(log, &fold->pending);
		fold->pending.repeats = 0;
	}
	if (folds->others.pending.repeats)
		write_record(log, &folds->others.pending);
	folds->others.pending.repeats = 0;
	folds->subjects.round++;
	folds->subjects.count = 0;
	folds->written_ns = now;
	log->pending -= folds->held;
	folds->held = false;
}

/* Also if the clock was set back. */
static bool is_due(const struct mcr_log_folds *folds, uint64_t now)
{
	return now - folds->written_ns >= MCR_SECOND_NS;
}

void mcr_log_fold(struct mcr_log *log, const struct mcr_rec_log *record)
{
	struct mcr_log_folds *folds = &log->folds[record->code];
	struct mcr_log_fold *fold;
	uint32_t subjects = 1;

	if (is_due(folds, record->time_ns))
		write_folds(log, folds, record->time_ns);
	fold = find_fold(folds, record);
	if (fold == &folds->others) {
		subjects = count_subject(&folds->subjects, subject_of(record));
	} else if (!fold->taken) {
		write_record(log, record);
		*fold = (struct mcr_log_fold){ .taken = true, .pending = *record };
		fold->pending.repeats = 0;
		return;
	}
	hold_back(fold, record, subjects);
	log->pending += !folds->held;
	folds->held = true;
}

void mcr_log_folded(struct mcr_log *log, enum mcr_facility facility, enum mcr_level level, enum mcr_log_code code,
		    uint64_t arg0, uint64_t arg1, uint64_t arg2)
{
	struct mcr_rec_log record;

	if (!mcr_log_enabled(log, facility, level))
		return;
	record = make_record(facility, level, code, arg0, arg1, arg2);
	mcr_log_fold(log, &record);
}

void mcr_log_flush_at(struct mcr_log *log, uint64_t now)
{
	for (uint32_t code = 0; code < MCR_LOG_CODES; code++)
		if (log->folds[code].held && is_due(&log->folds[code], now))
			write_folds(log, &log->folds[code], now);
}

void mcr_log_flush(struct mcr_log *log)
{
	if (log->pending)
		mcr_log_flush_at(log, mcr_clock_ns(LOG_CLOCK));
}
