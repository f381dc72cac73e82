// SPDX-License-Identifier: MIT OR GPL-2.0-only
// The capture filter: a socket filter of a capture's sockets (load.h says what it is for).
#include "bpf/hand.h"
#include "bpf/tap.h"

#include "own.h"
#include "shm_abi.h"

#define DROP         0
#define ACCEPT_WHOLE 0x40000 /* bytes: more than any frame has */

#define LINK_LOCAL   MCR_NETWORK32(0xe0000000) /* 224.0.0.0/24 */
#define LINK_MASK    MCR_NETWORK32(0xffffff00)
#define FIRST_OCTET  MCR_NETWORK32(0xff000000)
#define LOOPBACK     MCR_NETWORK32(0x7f000000)
#define PLAIN_HEADER 0x45 /* version 4, without options */

MAP(admitted);
MAP(rejected);
MAP(own);
MAP(own_bits);
MAP(drains);
MAP(forwards);
MAP(forwards6);
PARAMETER(capture);
PARAMETER(worker);
PARAMETER(workers);
PARAMETER(clip);
PARAMETER(everything);
PARAMETER(sourced);

INLINE uint32_t total_of(const struct headers6 *headers)
{
	return (uint32_t)sizeof(headers->ip) + MCR_NETWORK16(headers->ip.payload);
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

/* What became of the packet before this one, on this processor. */
INLINE void look_back(void)
{
	struct mcr_bpf_hand *hand = find_hand();

	if (hand && hand->path == PATH_KERNEL)
		count_lost(hand);
}

INLINE void hand_on(const struct __sk_buff *skb, enum mcr_bpf_fate path, uint32_t datagrams, uint32_t group,
		    uint32_t ports, uint32_t source, struct mcr_bpf_gate gate)
{
	struct mcr_bpf_hand *hand = find_hand();

	if (!hand) /* never: for the verifier */
		return;
	hand->path = path;
	hand->sole = gate.sole;
	hand->worker = (uint32_t)VALUE(worker);
	hand->capture = (uint32_t)VALUE(capture);
	hand->interface = skb->ifindex;
	hand->datagrams = datagrams;
	hand->group = group;
	hand->ports = ports;
	hand->source = source;
	hand->epoch = gate.epoch;
}

INLINE int to_worker(const struct __sk_buff *skb, uint32_t source, int size)
{
	if (VALUE(relay))
		hand_on(skb, PATH_WORKER, 0, 0, 0, source, (struct mcr_bpf_gate){ 0 });
	return size;
}

/* Whether the header's checksum is right (RFC 1071). It has no options. */
INLINE bool is_ip_sum_right(const struct mcr_ipv4 *ip)
{
	const uint32_t *words = (const void *)ip; /* on the stack, aligned */
	uint64_t sum = (uint64_t)words[0] + words[1] + words[2] + words[3] + words[4];

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* A bit tells most strangers from this machine. */
INLINE bool is_own(uint64_t key)
{
	uint32_t index = 0, bit = mcr_own_bit(key);
	const uint8_t *bits = bpf_map_lookup_elem(map_own_bits, &index);

	return bits && bits[bit / 8] >> bit % 8 & 1 && bpf_map_lookup_elem(map_own, &key);
}

/* Whether this machine has sent it, or that can't be told. `key`: of its source. */
INLINE bool is_from_here(struct __sk_buff *skb, uint64_t key)
{
	uint8_t mac[8];

	return bpf_skb_load_bytes(skb, ETH_ALEN, mac, ETH_ALEN) || is_own(key) || is_own(mcr_own_mac(mac));
}

/* As sanity.c has it: from an address that nobody can have, or from this machine. */
INLINE bool is_source_wrong(struct __sk_buff *skb, const struct mcr_ipv4 *ip)
{
	if (!(ip->source & FIRST_OCTET) && (ip->destination & LINK_MASK) != LINK_LOCAL && ip->destination != ~0u)
		return true;
	if ((ip->source & FIRST_OCTET) == LOOPBACK || (ip->source & CLASS_MASK) == MULTICAST || ip->source == ~0u)
		return true;
	return is_from_here(skb, mcr_own_address(ip->source));
}

/* Bytes of its IP datagrams, of which each has so many of headers: of a super-frame the longest that it is cut into. */
INLINE uint32_t datagram_size(const struct __sk_buff *skb, uint32_t total, uint32_t headers)
{
	uint32_t size = skb->gso_size;

	return size && size + headers < total ? size + headers : total;
}

/* Whether a super-frame is one that a worker would take (gather.c), with nothing behind it that a cut would send along. */
INLINE bool is_super_frame_sound(const struct __sk_buff *skb, uint32_t total, uint32_t headers)
{
	return total == skb->len - ETH_HLEN && datagrams_in(skb, total, headers) <= MCR_FRAME_PAYLOADS;
}

/* An ordinary datagram that every output can carry. All others are a worker's, which says what is wrong with them. */
INLINE bool is_plain(struct __sk_buff *skb, const struct headers *headers, uint32_t mtu)
{
	uint32_t total = MCR_NETWORK16(headers->ip.total);

	if (skb->pkt_type == PACKET_OTHERHOST || headers->ip.version_size != PLAIN_HEADER)
		return false;
	if (total < IP_AND_UDP || total > skb->len - ETH_HLEN || datagram_size(skb, total, IP_AND_UDP) > mtu)
		return false;
	if (skb->gso_size && !is_super_frame_sound(skb, total, IP_AND_UDP))
		return false;
	return MCR_NETWORK16(headers->udp_length) == total - sizeof(headers->ip) && is_ip_sum_right(&headers->ip) &&
	       !is_source_wrong(skb, &headers->ip);
}

/* The same of IPv6, where a datagram without a checksum is none. */
INLINE bool is_plain6(struct __sk_buff *skb, const struct headers6 *headers, uint32_t mtu)
{
	uint32_t total = total_of(headers);

	if (skb->pkt_type == PACKET_OTHERHOST || total < IPV6_AND_UDP || total > skb->len - ETH_HLEN ||
	    datagram_size(skb, total, IPV6_AND_UDP) > mtu)
		return false;
	if (skb->gso_size && !is_super_frame_sound(skb, total, IPV6_AND_UDP))
		return false;
	return headers->udp.length == headers->ip.payload && headers->udp.checksum &&
	       !mcr_is_impossible6(headers->ip.source, headers->ip.destination) &&
	       !is_from_here(skb, mcr_own_address6(headers->ip.source));
}

/* Look into the ring of one worker. */
static long look_at(uint64_t i, bool *drained)
{
	uint32_t at = (uint32_t)(VALUE(capture) * VALUE(workers)) + (uint32_t)i;
	const struct mcr_bpf_drain *drain = bpf_map_lookup_elem(map_drains, &at);

	if (drain && drain->entered == drain->seen)
		return 0;
	*drained = false;
	return 1;
}

/* Whether no worker holds a frame of this capture: what comes now would overtake it on the kernel path. */
INLINE bool is_drained(void)
{
	bool drained = true;

	bpf_loop((uint32_t)VALUE(workers), look_at, &drained, 0);
	return drained;
}

/* Whether the kernel path forwards a packet of this rule. A flow moves there when it can't overtake itself, and back at once. */
INLINE bool is_for_kernel(struct mcr_bpf_head *rule, bool plain, uint32_t epoch)
{
	if (!plain) {
		rule->epoch = 0;
		return false;
	}
	if (rule->epoch == epoch)
		return true;
	if (!is_drained())
		return false;
	rule->epoch = epoch;
	return true;
}

/* Its gate as it is now: it may be closed meanwhile. */
INLINE struct mcr_bpf_gate find_gate(void)
{
	uint32_t capture = (uint32_t)VALUE(capture);
	const struct mcr_bpf_gate *found = bpf_map_lookup_elem(map_gates, &capture);

	return found ? *found : (struct mcr_bpf_gate){ 0 };
}

/* Leave it to the kernel path, if that forwards it. `slot`: of its rule, where it is found. */
INLINE bool to_kernel(struct __sk_buff *skb, const struct headers *headers, const struct mcr_flow *flow, uint32_t *slot)
{
	struct mcr_bpf_gate gate = find_gate();
	struct mcr_bpf_rule *rule = gate.epoch ? bpf_map_lookup_elem(map_forwards, flow) : 0;

	if (!rule)
		return false;
	*slot = rule->head.slot;
	if (!is_for_kernel(&rule->head, is_plain(skb, headers, rule->head.mtu), gate.epoch))
		return false;
	hand_on(skb, PATH_KERNEL, datagrams_in(skb, MCR_NETWORK16(headers->ip.total), IP_AND_UDP),
		headers->ip.destination, ports_of(&headers->ports), flow->source, gate);
	return true;
}

INLINE bool to_kernel6(struct __sk_buff *skb, const struct headers6 *headers, const struct mcr_flow *flow,
		       uint32_t *slot)
{
	struct mcr_bpf_gate gate = find_gate();
	struct mcr_bpf_rule6 *rule = gate.epoch ? bpf_map_lookup_elem(map_forwards6, flow) : 0;

	if (!rule)
		return false;
	*slot = rule->head.slot;
	if (!is_for_kernel(&rule->head, is_plain6(skb, headers, rule->head.mtu), gate.epoch))
		return false;
	hand_on(skb, PATH_KERNEL, datagrams_in(skb, total_of(headers), IPV6_AND_UDP), headers->ip.destination[3],
		ports_of(&headers->udp.ports), mcr_flow_has_source(flow), gate);
	return true;
}

/*
 * Whether the frame is a VLAN's of which no rule takes anything: its interface's, and not the relay's to count. A VLAN of
 * which rules take something has an entry without group and port.
 */
INLINE bool is_foreign(const struct __sk_buff *skb)
{
	struct mcr_flow any = mcr_flow_ipv4((uint16_t)VALUE(capture), vlan_of(skb), 0, 0, 0);

	return any.vlan && (skb->vlan_proto != MCR_NETWORK16(ETH_P_8021Q) || !bpf_map_lookup_elem(map_admitted, &any));
}

/* The flow is that of its source if a rule names it: that one goes before one that takes any. */
INLINE void find_source(const struct headers *headers, struct mcr_flow *flow)
{
	if (!VALUE(sourced))
		return;
	flow->source = headers->ip.source;
	if (!bpf_map_lookup_elem(map_admitted, flow))
		flow->source = 0;
}

/* The same of IPv6. What it gives stands for the flow in the map of admitted ones. */
INLINE struct mcr_flow find_source6(const struct headers6 *headers, struct mcr_flow *flow)
{
	struct mcr_flow brief;

	if (!VALUE(sourced))
		return mcr_flow_brief(flow);
	*flow = mcr_flow_ipv6(flow->interface, flow->vlan, headers->ip.source, headers->ip.destination, flow->port);
	brief = mcr_flow_brief(flow);
	if (bpf_map_lookup_elem(map_admitted, &brief))
		return brief;
	*flow = mcr_flow_from_any(flow);
	return mcr_flow_brief(flow);
}

/* A worker gets a packet of this rule, if there is one: what follows must not overtake it on the kernel path. */
INLINE void take_back(struct mcr_bpf_head *rule)
{
	if (rule)
		rule->epoch = 0;
}

/*
 * A fragment is admitted if any flow of its group is: that has an entry without a port. The first
 * one has the ports, and is the first or the last to come.
 */
INLINE int take_part(struct __sk_buff *skb, const struct headers *headers, struct mcr_flow *flow)
{
	if (!bpf_map_lookup_elem(map_admitted, flow) && !VALUE(everything)) {
		count(skb);
		return DROP;
	}
	flow->port = headers->ports.destination;
	find_source(headers, flow);
	if (VALUE(relay))
		take_back(bpf_map_lookup_elem(map_forwards, flow));
	return to_worker(skb, flow->source, ACCEPT_WHOLE);
}

INLINE void take_back_extended(struct __sk_buff *skb, const struct headers6 *headers, struct mcr_flow *flow,
			       uint32_t udp)
{
	struct mcr_udp_ports ports = {};

	if (!udp || fetch(skb, udp, &ports, sizeof(ports)))
		return;
	flow->port = ports.destination;
	find_source6(headers, flow);
	take_back(bpf_map_lookup_elem(map_forwards6, flow));
}

/* One with extension headers goes to a worker, but for fragments to groups of which nothing is admitted. */
INLINE int take_extended(struct __sk_buff *skb, const struct headers6 *headers)
{
	struct mcr_flow flow = mcr_flow_ipv6((uint16_t)VALUE(capture), vlan_of(skb), 0, headers->ip.destination, 0);
	struct mcr_flow brief = mcr_flow_brief(&flow);
	uint32_t udp = 0;
	enum verdict verdict = read_extensions(skb, headers->ip.next, &udp);

	if (verdict == REJECT)
		return DROP;
	if (verdict == PART && !bpf_map_lookup_elem(map_admitted, &brief) && !VALUE(everything)) {
		count(skb);
		return DROP;
	}
	if (VALUE(relay))
		take_back_extended(skb, headers, &flow, udp);
	return to_worker(skb, 0, ACCEPT_WHOLE);
}

/* What follows is the flow's: for the kernel path, for a worker, or for nobody. */
INLINE int take(struct __sk_buff *skb, const struct mcr_flow *flow)
{
	if (bpf_map_lookup_elem(map_admitted, flow) || VALUE(everything))
		return to_worker(skb, flow->source, accept(skb));
	count(skb);
	return DROP;
}

INLINE int decide(struct __sk_buff *skb, const struct headers *headers, const struct mcr_flow *flow, uint32_t *slot)
{
	return VALUE(relay) && to_kernel(skb, headers, flow, slot) ? DROP : take(skb, flow);
}

/* `whole`: the flow; `flow` stands for it in the map of admitted ones. */
INLINE int decide6(struct __sk_buff *skb, const struct headers6 *headers, const struct mcr_flow *whole,
		   const struct mcr_flow *flow, uint32_t *slot)
{
	return VALUE(relay) && to_kernel6(skb, headers, whole, slot) ? DROP : take(skb, flow);
}

/*
 * Keeps a number from the verifier. Without CAP_PERFMON it follows all that comes behind for each one that it knows, or knows
 * something of: so it gets to know nothing.
 */
INLINE int blur(const struct __sk_buff *skb, int number)
{
	uint64_t one = skb->len, same = one;

	OPAQUE(one);
	OPAQUE(same);
	one = (one - same) ^ (uint64_t)number;
	OPAQUE(one);
	return (int)one;
}

INLINE int filter4(struct __sk_buff *skb)
{
	struct opening opening;
	struct headers *headers = &opening.headers;
	struct told told = { .plain_begin = IP_AND_UDP, .payload = (const uint8_t *)headers + IP_AND_UDP };
	struct mcr_flow flow = {};
	uint32_t slot = NO_SLOT;
	enum verdict verdict;
	int size;

	opening.headers = (struct headers){};
	if (VALUE(health)) /* also on ways that a processor might guess: the verifier of Linux 6.12 follows them */
		__builtin_memset(opening.rest, 0, sizeof(opening.rest));
	verdict = read_frame(skb, headers, VALUE(health), &flow, (uint16_t)VALUE(capture));
	if (verdict == REJECT || is_foreign(skb))
		return DROP;
	if (verdict == ACCEPT)
		return to_worker(skb, 0, ACCEPT_WHOLE);
	if (verdict == PART)
		return take_part(skb, headers, &flow);
	find_source(headers, &flow);
	if (!VALUE(health)) /* apart: this way costs what it would if there were no other */
		return decide(skb, headers, &flow, &slot);
	OPAQUE(slot); /* and clang does not make one of both */
	size = decide(skb, headers, &flow, &slot);
	if (VALUE(slices))
		size = blur(skb, size);
	told.total = MCR_NETWORK16(headers->ip.total);
	told.begin = payload_at(&headers->ip);
	tell(skb, number_of(&flow, slot), &told);
	return size;
}

INLINE int filter6(struct __sk_buff *skb)
{
	struct opening6 opening;
	struct headers6 *headers = &opening.headers;
	struct told told = { .begin = IPV6_AND_UDP, .plain_begin = IPV6_AND_UDP, .payload = opening.payload };
	struct mcr_flow whole = {}, flow;
	uint32_t slot = NO_SLOT;
	enum verdict verdict;
	int size;

	opening.headers = (struct headers6){};
	if (VALUE(health))
		__builtin_memset(opening.payload, 0, sizeof(opening.payload));
	verdict = read_ipv6(skb, headers, VALUE(health), &whole, (uint16_t)VALUE(capture));
	if (verdict == REJECT || is_foreign(skb))
		return DROP;
	if (verdict == ACCEPT)
		return take_extended(skb, headers);
	flow = find_source6(headers, &whole);
	if (!VALUE(health))
		return decide6(skb, headers, &whole, &flow, &slot);
	OPAQUE(slot); /* and clang does not make one of both */
	size = decide6(skb, headers, &whole, &flow, &slot);
	if (VALUE(slices))
		size = blur(skb, size);
	told.total = total_of(headers);
	tell(skb, number_of(&flow, slot), &told);
	return size;
}

/* The families go apart to the end: what is written for one of them is no more than that for the verifier. */
int filter(struct __sk_buff *skb)
{
	if (VALUE(relay))
		look_back();
	return is_ipv6(skb) ? filter6(skb) : filter4(skb);
}
