// SPDX-License-Identifier: MIT
#include "health/gaps.h"

#include "clock.h"

#define STALL_FACTOR 10
#define JUDGE_LEAST  20 /* gaps, before a median says something */

static uint32_t bucket_of(uint64_t gap)
{
	uint32_t octave, bucket;

	if (gap < 8)
		return (uint32_t)gap;
	octave = 63 - (uint32_t)__builtin_clzll(gap);
	bucket = (octave - 2) * 8 + (uint32_t)(gap >> (octave - 3) & 7);
	return bucket < MCR_GAP_BUCKETS ? bucket : MCR_GAP_BUCKETS - 1;
}

/* The longest gap that falls into a bucket. */
static uint64_t end_of(uint32_t bucket)
{
	uint32_t octave = bucket / 8 + 2;

	return bucket < 8 ? bucket : ((UINT64_C(8) + bucket % 8 + 1) << (octave - 3)) - 1;
}

static void turn_window(struct mcr_gaps *gaps, uint64_t time)
{
	if (time - gaps->begun < MCR_GAP_WINDOW)
		return;
	gaps->filled ^= 1;
	gaps->windows[gaps->filled] = (struct mcr_gap_window){ 0 };
	if (time - gaps->begun >= 2 * MCR_GAP_WINDOW)
		gaps->windows[gaps->filled ^ 1] = (struct mcr_gap_window){ 0 };
	gaps->begun = time;
}

/* What is usual, once a second; the first time when a gap is to be judged by it. */
static void judge(struct mcr_gaps *gaps, uint64_t time, uint64_t gap)
{
	if (time - gaps->judged < MCR_SECOND_NS && (gaps->usual || gap < MCR_STALL_LEAST))
		return;
	gaps->judged = time;
	if (gaps->windows[0].count + gaps->windows[1].count >= JUDGE_LEAST)
		gaps->usual = mcr_gaps_quantile(gaps, 500);
}

uint64_t mcr_gaps_take(struct mcr_gaps *gaps, uint64_t time)
{
	struct mcr_gap_window *window;
	uint64_t gap = time > gaps->newest ? time - gaps->newest : 0;

	if (!gaps->newest) {
		gaps->newest = gaps->begun = gaps->judged = time;
		return 0;
	}
	judge(gaps, time, gap);
	turn_window(gaps, time);
	window = &gaps->windows[gaps->filled];
	window->count++;
	window->buckets[bucket_of(gap)]++;
	if (gap > window->longest)
		window->longest = gap;
	if (gaps->usual && gap >= MCR_STALL_LEAST && gap >= STALL_FACTOR * gaps->usual)
		gaps->stalls++;
	gaps->newest = time > gaps->newest ? time : gaps->newest;
	return gap;
}

uint64_t mcr_gaps_quantile(const struct mcr_gaps *gaps, uint32_t thousandths)
{
	uint64_t count = gaps->windows[0].count + gaps->windows[1].count, longest = mcr_gaps_longest(gaps);
	uint64_t rank = (count * thousandths + 999) / 1000, seen = 0;

	for (uint32_t i = 0; i < MCR_GAP_BUCKETS; i++) {
		seen += gaps->windows[0].buckets[i] + gaps->windows[1].buckets[i];
		if (seen && seen >= rank)
			return end_of(i) < longest ? end_of(i) : longest;
	}
	return longest;
}

uint64_t mcr_gaps_longest(const struct mcr_gaps *gaps)
{
	uint64_t one = gaps->windows[0].longest, other = gaps->windows[1].longest;

	return one > other ? one : other;
}
