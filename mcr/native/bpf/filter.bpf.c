// SPDX-License-Identifier: MIT OR GPL-2.0-only
// The capture filter: a socket filter of a capture's sockets (load.h says what it is for).
#include "frame.h"

#define DROP         0
#define ACCEPT_WHOLE 0x40000 /* bytes: more than any frame has */

MAP(admitted);
MAP(rejected);
PARAMETER(capture);
PARAMETER(clip);
PARAMETER(everything);

INLINE bool is_admitted(const struct mcr_flow *flow)
{
	return VALUE(everything) || bpf_map_lookup_elem(map_admitted, flow);
}

/* A super-frame is as many datagrams as it will be cut into. */
INLINE void count(const struct __sk_buff *skb)
{
	uint32_t capture = (uint32_t)VALUE(capture);
	uint64_t datagrams = skb->gso_segs;
	uint64_t *rejected = bpf_map_lookup_elem(map_rejected, &capture);

	if (rejected)
		*rejected += datagrams ? datagrams : 1;
}

/* How much to keep of a frame that is admitted. */
INLINE int accept(const struct __sk_buff *skb)
{
	uint32_t datagrams = VALUE(clip) ? skb->gso_segs : 0;

	return datagrams ? (int)(datagrams + MCR_BPF_CLIP) : ACCEPT_WHOLE;
}

int filter(struct __sk_buff *skb)
{
	struct headers headers;
	struct mcr_flow flow;
	enum verdict verdict = read_frame(skb, &headers, &flow, (uint16_t)VALUE(capture));

	if (verdict != LOOK_UP)
		return verdict == ACCEPT ? ACCEPT_WHOLE : DROP;
	if (is_admitted(&flow))
		return accept(skb);
	count(skb);
	return DROP;
}
