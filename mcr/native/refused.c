// SPDX-License-Identifier: MIT
#include "refused.h"

#include <errno.h>

int mcr_refused_set(struct mcr_refused *refused, const struct mcr_refusal *flows, uint32_t count)
{
	refused->count = 0;
	if (count > MCR_MAX_REFUSED)
		return -EINVAL;
	for (uint32_t i = 0; i < count; i++) {
		if (!mcr_flow_has_source(&flows[i].flow) || flows[i].place >= MCR_MAX_REFUSED)
			return -EINVAL;
		refused->flows[i] = flows[i];
	}
	refused->count = count;
	return 0;
}

void mcr_refused_expire(struct mcr_refused *refused, uint64_t now)
{
	uint32_t left = 0;

	for (uint32_t i = 0; i < refused->count; i++)
		if (now < refused->flows[i].until_ns)
			refused->flows[left++] = refused->flows[i];
	refused->count = left;
}
