// SPDX-License-Identifier: MIT
#include "own.h"

#include <errno.h>
#include <string.h>

int mcr_own_set(struct mcr_own *own, const struct mcr_rec_own_key *keys, uint32_t count)
{
	if (count > MCR_MAX_OWN)
		return -EINVAL;
	memset(own, 0, sizeof(*own));
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = mcr_own_bucket(keys[i].key);

		if (!keys[i].key || keys[i].cause >= MCR_CAUSES)
			return -EINVAL;
		while (own->buckets[at].key && own->buckets[at].key != keys[i].key)
			at = (at + 1) % MCR_OWN_BUCKETS;
		own->buckets[at] = keys[i];
	}
	return 0;
}
