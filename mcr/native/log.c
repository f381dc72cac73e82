// SPDX-License-Identifier: MIT
#include "log.h"

#define LOG_CLOCK   CLOCK_REALTIME_COARSE /* never a system call, whatever the clock is */
#define BUCKET_MASK (MCR_LOG_BUCKETS - 1)

_Static_assert((MCR_LOG_BUCKETS & BUCKET_MASK) == 0 && 4 * MCR_LOG_SUBJECTS <= MCR_LOG_BUCKETS, "a search ends soon");

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

/* Nothing has come, or not for long. Also if the clock was set back. */
static bool is_quiet(const struct mcr_rec_log *fold, uint64_t now)
{
	return !fold->repeats && (!fold->time_ns || now - fold->time_ns >= MCR_LOG_QUIET_NS);
}

static void forget_subjects(struct mcr_log_subjects *subjects)
{
	subjects->since = ++subjects->round;
	subjects->known = subjects->count = 0;
}

static void begin_round(struct mcr_log_subjects *subjects)
{
	subjects->many |= subjects->known > MCR_LOG_SUBJECTS;
	if (subjects->many)
		forget_subjects(subjects);
	else
		subjects->round++;
	subjects->count = 0;
}

/* Count it among those of this round, unless they are too many. Whether it is new, as far as that can be told. */
static bool count_subject(struct mcr_log_subjects *subjects, uint64_t subject, uint64_t now)
{
	uint32_t at = (uint32_t)((subject * UINT64_C(0x9e3779b97f4a7c15)) >> 40) & BUCKET_MASK;
	uint32_t now_s = (uint32_t)(now / MCR_SECOND_NS), quiet_s;
	struct mcr_log_bucket *bucket;
	bool known;

	while (subjects->buckets[at].round >= subjects->since && subjects->buckets[at].subject != subject)
		at = (at + 1) & BUCKET_MASK;
	bucket = &subjects->buckets[at];
	known = bucket->round >= subjects->since;
	quiet_s = now_s - bucket->seen_s;
	if (bucket->round != subjects->round) {
		if (subjects->count == MCR_LOG_SUBJECTS)
			return false;
		subjects->count++;
	}
	subjects->known += !known;
	*bucket = (struct mcr_log_bucket){ subject, subjects->round, now_s };
	return !subjects->many && (!known || quiet_s > MCR_LOG_QUIET_NS / MCR_SECOND_NS);
}

/* The fold for a subject: its own, or one that is free, or the one of all others. */
static struct mcr_rec_log *find_fold(struct mcr_log_folds *folds, const struct mcr_rec_log *record)
{
	struct mcr_rec_log *found = &folds->others;

	for (uint32_t i = MCR_LOG_NAMED; i-- > 0;) {
		struct mcr_rec_log *fold = &folds->named[i];

		if (fold->args[1] == record->args[1] && subject_of(fold) == subject_of(record))
			return fold;
		if (is_quiet(fold, record->time_ns))
			found = fold;
	}
	return found;
}

static void hold_back(struct mcr_log *log, struct mcr_rec_log *fold, const struct mcr_rec_log *record,
		      uint32_t subjects)
{
	struct mcr_log_folds *folds = &log->folds[record->code];
	uint64_t first_ns = fold->repeats ? fold->first_ns : record->first_ns;
	uint32_t repeats = fold->repeats + 1;

	*fold = *record;
	fold->first_ns = first_ns;
	fold->repeats = repeats;
	fold->subjects = subjects;
	log->pending += !folds->held;
	folds->held = true;
}

static void write_held(struct mcr_log *log, struct mcr_rec_log *fold)
{
	if (fold->repeats)
		write_record(log, fold);
	fold->repeats = 0;
}

/* Write what is held back. The longer it goes on, the longer until the next time. */
static void write_folds(struct mcr_log *log, struct mcr_log_folds *folds, uint64_t now)
{
	for (uint32_t i = 0; i < MCR_LOG_NAMED; i++)
		write_held(log, &folds->named[i]);
	write_held(log, &folds->others);
	begin_round(&folds->subjects);
	if (folds->held)
		folds->interval_ns *= 2;
	if (folds->interval_ns > MCR_LOG_LONGEST_NS)
		folds->interval_ns = MCR_LOG_LONGEST_NS;
	folds->written_ns = now;
	log->pending -= folds->held;
	folds->held = false;
}

/* Also if the clock was set back. */
static bool is_due(const struct mcr_log_folds *folds, uint64_t now)
{
	return now - folds->written_ns >= folds->interval_ns;
}

static void write_first(struct mcr_log *log, struct mcr_rec_log *fold, const struct mcr_rec_log *record)
{
	write_record(log, record);
	*fold = *record;
	fold->repeats = 0;
}

/* Hold it back in the fold of all others. Whether its subject is new among them. */
static bool hold_among_others(struct mcr_log *log, struct mcr_log_folds *folds, const struct mcr_rec_log *record)
{
	bool is_new;

	if (is_quiet(&folds->others, record->time_ns)) {
		forget_subjects(&folds->subjects);
		folds->subjects.many = false;
	}
	is_new = count_subject(&folds->subjects, subject_of(record), record->time_ns);
	hold_back(log, &folds->others, record, folds->subjects.count);
	return is_new;
}

void mcr_log_fold(struct mcr_log *log, const struct mcr_rec_log *record)
{
	struct mcr_log_folds *folds = &log->folds[record->code];
	struct mcr_rec_log *fold = find_fold(folds, record);
	bool is_new = is_quiet(fold, record->time_ns);

	if (fold == &folds->others)
		is_new = hold_among_others(log, folds, record);
	else if (is_new)
		write_first(log, fold, record);
	else
		hold_back(log, fold, record, 1);
	if (is_new)
		folds->interval_ns = MCR_SECOND_NS;
	if (is_due(folds, record->time_ns)) /* at once, so that a new subject is the one that is named */
		write_folds(log, folds, record->time_ns);
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

void mcr_log_hurry(struct mcr_log *log)
{
	for (uint32_t code = 0; code < MCR_LOG_CODES; code++)
		if (log->folds[code].interval_ns > MCR_SECOND_NS) /* leaves untouched pages alone */
			log->folds[code].interval_ns = MCR_SECOND_NS;
}
