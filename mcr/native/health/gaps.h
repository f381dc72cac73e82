/* SPDX-License-Identifier: MIT */
/*
 * The times between a stream's datagrams: how they are distributed over the last half minute to minute, and stalls.
 *
 * A bucket is an eighth of an octave, so a percentile is at most an eighth too high; the maximum is exact. Pure.
 */
#ifndef MCR_HEALTH_GAPS_H
#define MCR_HEALTH_GAPS_H

#include <stdint.h>

#define MCR_GAP_BUCKETS 320 /* the last begins at 2^41 ns, 37 minutes */
#define MCR_GAP_WINDOW  UINT64_C(30000000000)
#define MCR_STALL_LEAST UINT64_C(50000000) /* ns; shorter gaps are no stalls */

struct mcr_gap_window {
	uint64_t count;
	uint64_t longest; /* ns */
	uint32_t buckets[MCR_GAP_BUCKETS];
};

struct mcr_gaps {
	uint64_t newest; /* when a datagram came last, ns; 0: none has */
	uint64_t begun;  /* when the window that is filled began */
	uint64_t stalls; /* gaps of ten times the usual one, and MCR_STALL_LEAST */
	uint64_t usual;  /* ns: the median, as of the last second; 0: not known yet */
	uint64_t judged; /* when `usual` was found */
	uint32_t filled; /* of the windows, the one that is filled; the other one is the one before */
	struct mcr_gap_window windows[2];
};

/* A datagram has come. How long after the one before it, ns; 0 for the first. */
uint64_t mcr_gaps_take(struct mcr_gaps *gaps, uint64_t time);

/* So many thousandths of the gaps are at most that long, ns; 0: there were none. */
uint64_t mcr_gaps_quantile(const struct mcr_gaps *gaps, uint32_t thousandths);

/* The longest one, ns. */
uint64_t mcr_gaps_longest(const struct mcr_gaps *gaps);

#endif
