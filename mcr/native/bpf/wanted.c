// SPDX-License-Identifier: MIT
/* The map of the flows that filters let in. */
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>

#include "bpf/load.h"

#define AT_ONCE 64u /* flows */

/* With the groups and VLANs of flows. A reload may have nearly all flows exchanged: the new ones come in first. */
int mcr_bpf_open_wanted(void)
{
	return mcr_bpf_open_map(BPF_MAP_TYPE_HASH, MCR_FLOW_IPV4_BYTES, sizeof(uint8_t), 5 * MCR_MAX_RULES,
				BPF_F_NO_PREALLOC);
}

/* By one call, which takes Linux 5.6. */
static int put_together(int wanted, const uint8_t *keys, uint32_t count)
{
	uint8_t values[AT_ONCE];
	union bpf_attr attr;

	memset(values, 1, sizeof(values));
	memset(&attr, 0, sizeof(attr));
	attr.batch.map_fd = (uint32_t)wanted;
	attr.batch.keys = (uintptr_t)keys;
	attr.batch.values = (uintptr_t)values;
	attr.batch.count = count;
	return mcr_bpf(BPF_MAP_UPDATE_BATCH, &attr);
}

static int put_each(int wanted, const uint8_t *keys, uint32_t count)
{
	uint8_t value = 1;
	int ret = 0;

	for (uint32_t i = 0; i < count && !ret; i++)
		ret = mcr_bpf_put_value(wanted, keys + i * MCR_FLOW_IPV4_BYTES, &value);
	return ret;
}

int mcr_bpf_put(int wanted, const struct mcr_flow *flows, uint32_t count)
{
	uint8_t keys[AT_ONCE * MCR_FLOW_IPV4_BYTES];
	int ret = 0;

	for (uint32_t start = 0; start < count && !ret; start += AT_ONCE) {
		uint32_t some = count - start < AT_ONCE ? count - start : AT_ONCE;

		for (uint32_t i = 0; i < some; i++) {
			struct mcr_flow brief = mcr_flow_brief(&flows[start + i]);

			memcpy(keys + i * MCR_FLOW_IPV4_BYTES, &brief, MCR_FLOW_IPV4_BYTES);
		}
		if (put_together(wanted, keys, some)) /* whatever it is: some may be there already */
			ret = put_each(wanted, keys, some);
	}
	return ret;
}

int mcr_bpf_drop(int wanted, const struct mcr_flow *flow)
{
	struct mcr_flow brief = mcr_flow_brief(flow);

	return mcr_bpf_change(BPF_MAP_DELETE_ELEM, wanted, &brief, NULL);
}
