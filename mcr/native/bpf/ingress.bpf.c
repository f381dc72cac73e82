// SPDX-License-Identifier: MIT OR GPL-2.0-only
// The program at an input interface's ingress (load.h says what it is for).
#include "bpf/relay.h"

MAP(drains);
PARAMETER(capture);
PARAMETER(workers);

/* The frame is in a worker's ring by now. */
INLINE void count_entered(const struct hand *hand)
{
	uint32_t at = hand->capture * (uint32_t)VALUE(workers) + hand->worker;
	struct mcr_bpf_drain *drain = bpf_map_lookup_elem(map_drains, &at);

	if (drain)
		add_shared(&drain->entered, 1);
}

/* What the filter has decided about the packet. Of those that it has rejected it says nothing. */
INLINE enum path take(const struct __sk_buff *skb, struct hand *hand, const struct headers *headers)
{
	uint32_t path = hand->path;

	hand->path = PATH_NONE;
	if (path == PATH_WORKER)
		count_entered(hand);
	if (path != PATH_KERNEL)
		return path;
	if (hand->interface == skb->ifindex && hand->group == headers->ip.destination &&
	    hand->ports == ports_of(&headers->ports))
		return PATH_KERNEL;
	count_lost(hand);
	return PATH_NONE;
}

/* A tagged frame is also the VLAN's interface's, of which nobody has looked for local receivers. */
INLINE bool is_suppressed(const struct mcr_flow *flow)
{
	return !flow->vlan && bpf_map_lookup_elem(map_admitted, flow);
}

INLINE int suppress_admitted(struct __sk_buff *skb, const struct headers *headers, const struct mcr_flow *flow)
{
	if (is_suppressed(flow) && is_useless(skb, headers))
		suppress(skb);
	return TCX_NEXT; /* other programs are to have their say, too */
}

/* One program serves all interfaces: what a frame came in by is the filter's word. */
INLINE int carry_out(struct __sk_buff *skb, const struct headers *headers, struct mcr_flow *flow, enum verdict verdict)
{
	struct hand *hand = find_hand();
	enum path path;

	if (!hand) /* never: for the verifier */
		return TCX_NEXT;
	path = take(skb, hand, headers);
	if (path == PATH_NONE || verdict != LOOK_UP)
		return TCX_NEXT;
	flow->interface = (uint16_t)hand->capture;
	return path == PATH_KERNEL ? relay(skb, headers, flow, hand) : suppress_admitted(skb, headers, flow);
}

int ingress(struct __sk_buff *skb)
{
	struct headers headers = {};
	struct mcr_flow flow;
	enum verdict verdict = read_frame(skb, &headers, &flow, (uint16_t)VALUE(capture));

	if (verdict == REJECT)
		return TCX_NEXT;
	if (VALUE(relay))
		return carry_out(skb, &headers, &flow, verdict);
	return verdict == LOOK_UP ? suppress_admitted(skb, &headers, &flow) : TCX_NEXT;
}
