/* SPDX-License-Identifier: MIT */
/*
 * The batching delay: whether to wait before reading the rings again.
 *
 * At high rates a worker that reads its rings all the time finds one or two packets each time, and a worker that sleeps
 * is woken for each packet. Both cost more than forwarding them. During a delay of some 50 microseconds packets gather,
 * and leave together. A worker delays only while it expects several packets, so sparse traffic never waits.
 */
#ifndef MCR_PACE_H
#define MCR_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define MCR_PACE_SPAN_NS   50000u   /* a delay of the default length */
#define MCR_PACE_WINDOW_NS 1000000u /* over which the rate is taken */
#define MCR_PACE_PACKETS   8u       /* expected in a delay, for it to save CPU: in a guest its timer costs some 15 us */
#define MCR_PACE_ENOUGH    16u      /* packets of one turn that make a GSO batch worth sending at once */

struct mcr_pace {
	uint64_t window_ns; /* when the window began */
	uint32_t packets;   /* in it */
	bool dense;         /* many packets in a short span: a delay saves CPU, if it is allowed */
};

/*
 * The last turn took `packets`, at this time (CLOCK_MONOTONIC). Whether a delay before the next one would save CPU. After
 * a turn that found nothing the worker sleeps until a packet wakes it, instead.
 */
bool mcr_pace_step(struct mcr_pace *pace, uint32_t packets, uint64_t now_ns);

#endif
