// SPDX-License-Identifier: MIT OR GPL-2.0-only
// The program at an input interface's ingress (load.h says what it is for).
#include "bpf/relay6.h"

MAP(drains);
PARAMETER(capture);
PARAMETER(workers);

/* The frame is in a worker's ring by now. */
INLINE void count_entered(const struct mcr_bpf_hand *hand)
{
	uint32_t at = hand->capture * (uint32_t)VALUE(workers) + hand->worker;
	struct mcr_bpf_drain *drain = bpf_map_lookup_elem(map_drains, &at);

	if (drain)
		add_shared(&drain->entered, 1);
}

/*
 * A tagged frame is also the VLAN's interface's, of which nobody has looked for local receivers. `source`: of the frame; the
 * filter, if it hands on, has found out whether a rule names it.
 */
INLINE bool is_suppressed(struct mcr_flow *flow, uint32_t source)
{
	if (flow->vlan)
		return false;
	if (bpf_map_lookup_elem(map_admitted, flow))
		return true;
	if (VALUE(relay))
		return false;
	flow->source = source;
	return bpf_map_lookup_elem(map_admitted, flow);
}

/*
 * What goes to a worker, or nowhere. `hand`: what the filter has decided, if there is a kernel path; it says nothing of
 * what it has rejected. Local delivery of IPv6 goes on: nobody has looked for its receivers.
 */
INLINE void leave(struct __sk_buff *skb, struct mcr_bpf_hand *hand)
{
	struct headers headers = {};
	struct mcr_flow flow = {};
	enum verdict verdict = is_ipv6(skb) ? ACCEPT
					    : read_frame(skb, &headers, false, &flow, (uint16_t)VALUE(capture));

	if (verdict == REJECT)
		return;
	if (VALUE(relay)) { /* one program serves all interfaces: what a frame came in by is the filter's word */
		if (hand->path != PATH_WORKER)
			return;
		hand->path = PATH_NONE;
		count_entered(hand);
		flow.interface = (uint16_t)hand->capture;
		flow.source = hand->source;
	}
	if (verdict == LOOK_UP && is_suppressed(&flow, headers.ip.source) && is_useless(skb, &headers))
		suppress(skb);
}

int ingress(struct __sk_buff *skb)
{
	struct mcr_bpf_hand *hand = 0;

	if (VALUE(relay)) {
		hand = find_hand();
		if (!hand) /* never: for the verifier */
			return TCX_NEXT;
		if (hand->path == PATH_KERNEL)
			return VALUE(ipv6) && is_ipv6(skb) ? relay6(skb, hand) : relay(skb, hand);
	}
	leave(skb, hand);
	return TCX_NEXT; /* other programs are to have their say, too */
}
