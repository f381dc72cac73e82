/* SPDX-License-Identifier: MIT */
/* What a benchmark packet carries, at the start of its UDP payload, in the byte order of the machine. */
#ifndef BENCH_PAYLOAD_H
#define BENCH_PAYLOAD_H

#include <stdint.h>
#include <time.h>

#define PAYLOAD_MAGIC UINT64_C(0x4d43522062656e63)

struct payload {
	uint64_t magic;
	uint64_t sequence; /* from 0, over all flows */
	uint64_t due_ns;   /* CLOCK_REALTIME, as the kernel's receive timestamps are: when it should have left */
};

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

#endif
