// SPDX-License-Identifier: MIT
#include "health/delay.h"

#include "clock.h"

#define WINDOW_NS (30 * MCR_SECOND_NS)

static void keep_highest(struct mcr_delay *delay, uint64_t time)
{
	if (time - delay->window >= WINDOW_NS) {
		delay->factors[0] = delay->factors[1];
		delay->losses[0] = delay->losses[1];
		delay->factors[1] = delay->losses[1] = 0;
		delay->window = time;
	}
	if (delay->factor > delay->factors[1])
		delay->factors[1] = delay->factor;
	if (delay->loss > delay->losses[1])
		delay->losses[1] = delay->loss;
}

/* The median of the seconds that were measured. */
static uint64_t usual_rate(const struct mcr_delay *delay)
{
	uint32_t count = delay->measured < MCR_DELAY_RATES ? delay->measured : MCR_DELAY_RATES;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t below = 0;

		for (uint32_t j = 0; j < count; j++)
			below += delay->rates[j] < delay->rates[i] || (delay->rates[j] == delay->rates[i] && j < i);
		if (below == count / 2)
			return delay->rates[i];
	}
	return 0;
}

/* A second is over: what it was like, and how the next one drains. */
static void turn(struct mcr_delay *delay, uint64_t time, uint64_t rate, uint64_t missed)
{
	uint64_t elapsed = time - delay->begun;

	if (delay->begun) {
		if (delay->rate)
			delay->factor = (uint64_t)((double)(delay->highest - delay->lowest) * MCR_SECOND_NS /
						   delay->rate);
		delay->loss = missed > delay->missed ? (missed - delay->missed) * MCR_SECOND_NS / elapsed : 0;
		keep_highest(delay, time);
		delay->rates[delay->measured++ % MCR_DELAY_RATES] = delay->bytes * MCR_SECOND_NS / elapsed;
		delay->rate = rate ? rate : usual_rate(delay);
	} else {
		delay->rate = rate;
		delay->window = time;
	}
	delay->begun = time;
	delay->bytes = 0;
	delay->missed = missed;
	delay->lowest = delay->highest = 0;
}

void mcr_delay_take(struct mcr_delay *delay, uint64_t time, uint32_t bytes, uint64_t rate, uint64_t missed)
{
	int64_t before;

	/* What is lost by a stall belongs to the second in which it began. */
	before = (int64_t)delay->bytes - (int64_t)((double)(time - delay->begun) * delay->rate / MCR_SECOND_NS);
	if (delay->begun && delay->rate && before < delay->lowest)
		delay->lowest = before;
	if (!delay->begun || time - delay->begun >= MCR_SECOND_NS) {
		turn(delay, time, rate, missed);
		before = 0;
	}
	delay->bytes += bytes;
	if (before + bytes > delay->highest)
		delay->highest = before + bytes;
}
