/* SPDX-License-Identifier: MIT */
/*
 * Whether to nap before looking for packets again.
 *
 * At high rates a worker that looks all the time finds a packet or two at each look, and a worker that sleeps is woken
 * for each: both cost more than what they are for. In a nap of some 50 microseconds packets gather that leave together.
 * It is taken only while several are expected in it, so sparse traffic never waits.
 */
#ifndef MCR_PACE_H
#define MCR_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define MCR_PACE_SPAN_NS   50000u   /* a nap, as long as it is by default */
#define MCR_PACE_WINDOW_NS 1000000u /* over which the rate is taken */
#define MCR_PACE_PACKETS   8u       /* expected in a nap, for it to pay: in a guest its timer costs some 15 us */
#define MCR_PACE_ENOUGH    16u      /* packets of one look that make a train worth sending at once */

struct mcr_pace {
	uint64_t window_ns; /* when the window began */
	uint32_t packets;   /* in it */
	bool dense;         /* many packets in a short span: a nap pays, if it is allowed */
};

/*
 * The last look took so many packets, at this time (CLOCK_MONOTONIC). Whether a nap before the next would pay. A look
 * that found nothing is for sleeping until a packet wakes, not for a nap.
 */
bool mcr_pace_step(struct mcr_pace *pace, uint32_t packets, uint64_t now_ns);

#endif
