// SPDX-License-Identifier: MIT
#include "log.h"

#include <time.h>

#define FOLD_NS UINT64_C(1000000000)

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now); /* vDSO: no system call */
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void mcr_log_init(struct mcr_log *log, struct mcr_ring_end *events, uint64_t *dropped)
{
	*log = (struct mcr_log){ .events = events, .dropped = dropped };
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

void mcr_log(struct mcr_log *log, enum mcr_facility facility, enum mcr_level level, enum mcr_log_code code,
	     uint64_t arg0, uint64_t arg1, uint64_t arg2)
{
	struct mcr_rec_log record = {
		.repeats = 1,
		.code = (uint16_t)code,
		.level = (uint8_t)level,
		.facility = (uint8_t)facility,
		.args = { arg0, arg1, arg2 },
	};

	if (!mcr_log_enabled(log, facility, level))
		return;
	record.time_ns = record.first_ns = now_ns();
	write_record(log, &record);
}

static bool same_subject(const struct mcr_rec_log *a, const struct mcr_rec_log *b)
{
	return a->code == b->code && a->args[0] == b->args[0] && a->args[1] == b->args[1];
}

static void flush_fold(struct mcr_log *log, struct mcr_fold *fold, uint64_t now)
{
	if (!fold->pending.repeats)
		return;
	write_record(log, &fold->pending);
	fold->pending.repeats = 0;
	fold->written_ns = now;
	log->pending--;
}

/* A fold that another subject needs writes what it holds first, so nothing is lost, only less is folded. */
static void begin_fold(struct mcr_log *log, struct mcr_fold *fold, const struct mcr_rec_log *record)
{
	flush_fold(log, fold, record->time_ns);
	write_record(log, record);
	fold->written_ns = record->time_ns;
	fold->pending = *record;
	fold->pending.repeats = 0;
}

void mcr_log_folded(struct mcr_log *log, enum mcr_facility facility, enum mcr_level level, enum mcr_log_code code,
		    uint64_t arg0, uint64_t arg1, uint64_t arg2)
{
	struct mcr_rec_log record = {
		.repeats = 1,
		.code = (uint16_t)code,
		.level = (uint8_t)level,
		.facility = (uint8_t)facility,
		.args = { arg0, arg1, arg2 },
	};
	struct mcr_fold *fold;

	if (!mcr_log_enabled(log, facility, level))
		return;
	record.time_ns = record.first_ns = now_ns();
	fold = &log->folds[(code * 5u + arg0 * 3u + arg1) % MCR_LOG_FOLDS];
	if (!same_subject(&fold->pending, &record) || !fold->written_ns) {
		begin_fold(log, fold, &record);
		return;
	}
	if (!fold->pending.repeats) {
		fold->pending.first_ns = record.time_ns;
		log->pending++;
	}
	fold->pending.repeats++;
	fold->pending.time_ns = record.time_ns;
	fold->pending.args[2] = arg2;
	if (record.time_ns - fold->written_ns >= FOLD_NS)
		flush_fold(log, fold, record.time_ns);
}

void mcr_log_flush(struct mcr_log *log)
{
	uint64_t now;

	if (!log->pending)
		return;
	now = now_ns();
	for (unsigned int i = 0; i < MCR_LOG_FOLDS; i++)
		if (now - log->folds[i].written_ns >= FOLD_NS)
			flush_fold(log, &log->folds[i], now);
}
