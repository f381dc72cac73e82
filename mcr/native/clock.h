/* SPDX-License-Identifier: MIT */
#ifndef MCR_CLOCK_H
#define MCR_CLOCK_H

#include <stdint.h>
#include <time.h>

#define MCR_SECOND_NS UINT64_C(1000000000)

/* What a clock says, in ns. Of the clocks used here the vDSO knows: no system call. */
static inline uint64_t mcr_clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * MCR_SECOND_NS + (uint64_t)now.tv_nsec;
}

#endif
