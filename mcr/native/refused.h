/* SPDX-License-Identifier: MIT */
/*
 * Flows from machines that return what others send. There are few, and mostly none: packets pay for them only then. A rule
 * that names their source takes them all the same.
 */
#ifndef MCR_REFUSED_H
#define MCR_REFUSED_H

#include <stddef.h>
#include <stdint.h>

#include "flow.h"
#include "shm_abi.h"

struct mcr_refused {
	uint32_t count;
	struct mcr_refusal flows[MCR_MAX_REFUSED];
};

/* Refuse these and no others. 0, or -EINVAL for too many, one from any source, or an impossible place. */
int mcr_refused_set(struct mcr_refused *refused, const struct mcr_refusal *flows, uint32_t count);

/* Forget those whose time is over at this one, in ns: with the last of them packets pay for nothing any more. */
void mcr_refused_expire(struct mcr_refused *refused, uint64_t now);

/* What is said of a flow; NULL: it is not refused. */
static inline const struct mcr_refusal *mcr_refused_find(const struct mcr_refused *refused, const struct mcr_flow *flow)
{
	for (uint32_t i = 0; i < refused->count; i++)
		if (mcr_flow_equal(&refused->flows[i].flow, flow))
			return &refused->flows[i];
	return NULL;
}

#endif
