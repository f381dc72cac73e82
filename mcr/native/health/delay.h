/* SPDX-License-Identifier: MIT */
/*
 * The Media Delivery Index (RFC 4445), second by second: how much a receiver has to buffer (delay factor), and how many
 * media packets it misses (media loss rate). Pure.
 */
#ifndef MCR_HEALTH_DELAY_H
#define MCR_HEALTH_DELAY_H

#include <stdint.h>

#define MCR_DELAY_RATES 5

struct mcr_delay {
	uint64_t begun;                  /* the second that is measured, ns; 0: none is */
	uint64_t rate;                   /* bytes per second that it drains at; 0: not known */
	uint64_t rates[MCR_DELAY_RATES]; /* of the last seconds, bytes; 0: not so many were measured */
	uint32_t measured;
	uint64_t bytes; /* that came in it */
	int64_t lowest; /* of the virtual buffer, bytes */
	int64_t highest;
	uint64_t missed;     /* media packets, up to its begin */
	uint64_t factor;     /* of the last whole second, ns */
	uint64_t loss;       /* packets missing in it, per second */
	uint64_t window;     /* since when the ones below are kept, ns */
	uint64_t factors[2]; /* the highest of the half minute before, and of this one */
	uint64_t losses[2];
};

/*
 * A datagram with so many bytes of media has come. `rate`: the stream's by its own clock, bytes per second; 0: it has
 * none, and the median of the last seconds' is taken, which a stall leaves as it is. `missed`: media packets that are
 * missing so far; less than before, when the stream has become another: nothing was lost meanwhile.
 */
void mcr_delay_take(struct mcr_delay *delay, uint64_t time, uint32_t bytes, uint64_t rate, uint64_t missed);

#endif
