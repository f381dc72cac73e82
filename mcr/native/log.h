/* SPDX-License-Identifier: MIT */
/*
 * A worker's log: records on the event ring, made only when the facility's level lets them through.
 *
 * What can repeat with every packet is folded, by its code and its subject (an output, a flow, ...). A few subjects of
 * each code have records of their own: the first occurrence is written at once, later ones are counted and written as
 * one record after 1 s, then 2, 4, ... up to 60 s. All others of the code share one record, which says how many
 * subjects it stands for. A new subject sets the interval back to 1 s. A subject is new again after MCR_LOG_QUIET_NS.
 * So however many outputs fail, a code never makes more than 2 * MCR_LOG_NAMED + 1 records in one second, and
 * MCR_LOG_NAMED + 1 per minute while the same ones fail.
 */
#ifndef MCR_LOG_H
#define MCR_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "ring.h"
#include "shm_abi.h"

#define MCR_LOG_NAMED    3    /* subjects of a code with records of their own */
#define MCR_LOG_SUBJECTS 512  /* other subjects that are told apart; with more, the record says so many */
#define MCR_LOG_BUCKETS  2048 /* a power of two: as many known before a round, as many new in it, and half stay free */

#define MCR_LOG_LONGEST_NS (60 * MCR_SECOND_NS) /* between two records of the same */
#define MCR_LOG_QUIET_NS   (60 * MCR_SECOND_NS) /* what has not come for as long is new */

/* The subjects of the records of `others`. A round is what goes into one record. */
struct mcr_log_subjects {
	uint32_t round, since; /* a bucket of a round before `since` is empty */
	uint32_t known, count; /* in buckets; in this round */
	bool many;             /* more than MCR_LOG_SUBJECTS have come: new ones are not told apart from old ones */
	struct mcr_log_bucket {
		uint64_t subject;
		uint32_t round;  /* the last that it came in */
		uint32_t seen_s; /* CLOCK_REALTIME of its newest occurrence */
	} buckets[MCR_LOG_BUCKETS];
};

/* Of each record: occurrences that are not written yet; repeats == 0: none, but it tells of the newest. */
struct mcr_log_folds {
	uint64_t written_ns;  /* when what was held back was last written */
	uint64_t interval_ns; /* from then until it is written again */
	bool held;            /* something is held back */
	struct mcr_rec_log named[MCR_LOG_NAMED], others;
	struct mcr_log_subjects subjects; /* in `others` */
};

struct mcr_log {
	struct mcr_ring_end *events;
	uint64_t *dropped; /* counter of records that found no room */
	uint8_t level[MCR_FACILITIES];
	bool written;     /* the supervisor is to be woken */
	uint32_t pending; /* codes of which something is held back */
	struct mcr_log_folds folds[MCR_LOG_CODES];
};

/* Of a log that is all zeros. */
void mcr_log_init(struct mcr_log *log, struct mcr_ring_end *events, uint64_t *dropped);

static inline bool mcr_log_enabled(const struct mcr_log *log, enum mcr_facility facility, enum mcr_level level)
{
	return level <= log->level[facility];
}

/* Write one record, unless its level is filtered out. */
void mcr_log(struct mcr_log *log, enum mcr_facility facility, enum mcr_level level, enum mcr_log_code code,
	     uint64_t arg0, uint64_t arg1, uint64_t arg2);

/* The same for what may repeat with every packet. Its subject is arg0 (of a flow: all three), its cause arg1. */
void mcr_log_folded(struct mcr_log *log, enum mcr_facility facility, enum mcr_level level, enum mcr_log_code code,
		    uint64_t arg0, uint64_t arg1, uint64_t arg2);

/* Write what has been held back for its interval. */
void mcr_log_flush(struct mcr_log *log);

/* Write what is held back within a second: its numbers may soon have other names, or somebody has begun to watch. */
void mcr_log_hurry(struct mcr_log *log);

/* What these two come to, by other clocks. */
void mcr_log_fold(struct mcr_log *log, const struct mcr_rec_log *record);
void mcr_log_flush_at(struct mcr_log *log, uint64_t now_ns);

#endif
