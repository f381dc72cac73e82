/* SPDX-License-Identifier: MIT */
/*
 * A worker's log: records on the event ring, made only when the facility's level lets them through.
 *
 * What can repeat with every packet is folded: the first occurrence is written at once, later ones of the same code
 * and subject are counted and written as one record a second.
 */
#ifndef MCR_LOG_H
#define MCR_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "ring.h"
#include "shm_abi.h"

#define MCR_LOG_FOLDS 16

struct mcr_fold {
	uint64_t written_ns;        /* when a record of it was last written */
	struct mcr_rec_log pending; /* repeats == 0: nothing to write */
};

struct mcr_log {
	struct mcr_ring_end *events;
	uint64_t *dropped; /* counter of records that found no room */
	uint8_t level[MCR_FACILITIES];
	bool written;     /* the supervisor is to be woken */
	uint32_t pending; /* folds that hold something back */
	struct mcr_fold folds[MCR_LOG_FOLDS];
};

void mcr_log_init(struct mcr_log *log, struct mcr_ring_end *events, uint64_t *dropped);

static inline bool mcr_log_enabled(const struct mcr_log *log, enum mcr_facility facility, enum mcr_level level)
{
	return level <= log->level[facility];
}

/* Write one record, unless its level is filtered out. */
void mcr_log(struct mcr_log *log, enum mcr_facility facility, enum mcr_level level, enum mcr_log_code code,
	     uint64_t arg0, uint64_t arg1, uint64_t arg2);

/* The same for what may repeat with every packet; folded by code, arg0 and arg1. */
void mcr_log_folded(struct mcr_log *log, enum mcr_facility facility, enum mcr_level level, enum mcr_log_code code,
		    uint64_t arg0, uint64_t arg1, uint64_t arg2);

/* Write what has been held back for a second. */
void mcr_log_flush(struct mcr_log *log);

#endif
