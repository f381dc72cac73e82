/* SPDX-License-Identifier: MIT */
/*
 * An MPEG transport stream (ISO/IEC 13818-1): the errors of first priority of ETSI TR 101 290.
 *
 * An error that lasts counts once: a table that stays away, a lost synchronization. Time in which no datagram comes does
 * not count against a table: that is a stall. Pure; bounded by the bytes it is given.
 */
#ifndef MCR_HEALTH_TS_H
#define MCR_HEALTH_TS_H

#include <stdbool.h>
#include <stdint.h>

#include "health/pids.h"

#define MCR_TS_PACKET   188 /* bytes */
#define MCR_TS_BRIEF    12  /* bytes of one, up to its clock */
#define MCR_TS_TERSE    4   /* of one that has no adaptation field */
#define MCR_TS_SYNC     0x47
#define MCR_TS_PIDS     8192
#define MCR_TS_PROGRAMS 64 /* whose PMTs are watched */
#define MCR_TS_AWAY     8  /* PIDs that are told */

/* A table that has to come again within half a second. */
struct mcr_ts_table {
	uint16_t pid;
	uint16_t program; /* its number; 0: it is the PAT */
	bool missing;     /* it was counted */
	bool seen;
	uint64_t time; /* when it came last, ns; before that, since when it is waited for */
};

struct mcr_ts {
	uint64_t packets;
	uint64_t sync_losses; /* 1.1 */
	uint64_t sync_bytes;  /* 1.2: packets that begin with something else */
	uint64_t pat_errors;  /* 1.3 */
	uint64_t continuity;  /* 1.4 */
	uint64_t pmt_errors;  /* 1.5 */
	uint64_t transport;   /* 2.1: marked as damaged by whoever sent them */
	uint64_t missing;     /* packets, as far as continuity counters tell: of 16 lost in a row none */
	uint64_t newest;      /* when a datagram came last, ns */
	uint32_t bad_run, good_run;
	bool unsynchronized;
	struct mcr_ts_table pat;
	uint32_t programs;
	struct mcr_ts_table pmts[MCR_TS_PROGRAMS];
	struct mcr_pids referred;
	uint16_t clock_pid; /* whose clock reference (PCR) is read */
	bool has_clock;
	uint64_t clock;                /* the newest, in ticks of 27 MHz */
	uint64_t clock_packets;        /* `packets` there */
	uint64_t rate;                 /* bytes per second, by the clock; 0: not known */
	uint8_t counters[MCR_TS_PIDS]; /* of continuity: the last one, and KNOWN, REPEATED, MCR_PIDS_SEEN */
};

/*
 * A datagram has come: packets, one each `step` bytes. A step of MCR_TS_BRIEF or MCR_TS_TERSE: so many are there of each, and
 * nothing begins in them that would have to be read (bpf/abi.h).
 */
void mcr_ts_take(struct mcr_ts *ts, uint64_t time, const uint8_t *packets, uint32_t count, uint32_t step);

/* Packets came that were not seen, or come no more: expect nothing of the next ones. */
void mcr_ts_resume(struct mcr_ts *ts);

/* When the PMT came last that has been away longest, ns; 0: one of them never has, or there is none. */
uint64_t mcr_ts_oldest_pmt(const struct mcr_ts *ts);

/*
 * The PIDs that have stayed away for five seconds, as of the newest datagram: the PAT's (0), those of PMTs, and those that
 * PMTs refer to. How many were written.
 */
uint32_t mcr_ts_away(const struct mcr_ts *ts, uint64_t away[MCR_TS_AWAY]);

#endif
