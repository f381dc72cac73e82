// SPDX-License-Identifier: MIT
#include "pace.h"

bool mcr_pace_step(struct mcr_pace *pace, uint32_t packets, uint64_t now_ns)
{
	uint64_t elapsed = now_ns - pace->window_ns;

	pace->packets += packets;
	if (elapsed >= MCR_PACE_WINDOW_NS) {
		pace->dense = (uint64_t)pace->packets * MCR_PACE_SPAN_NS >= (uint64_t)MCR_PACE_PACKETS * elapsed;
		pace->window_ns = now_ns;
		pace->packets = 0;
	}
	return pace->dense && packets > 0 && packets < MCR_PACE_ENOUGH;
}
