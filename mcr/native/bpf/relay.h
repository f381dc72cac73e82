/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The kernel path: forwards a packet to all outputs of its rule at the interface's ingress, and wakes nobody.
 *
 * A clone leaves by each output, with the headers that a worker would have given it (raw.c). The payload stays, and the UDP
 * checksum is moved along with the headers, so what is corrupt is seen to be. The packet itself is consumed; where it may be
 * others', too, it gets its headers back.
 */
#ifndef MCR_BPF_RELAY_H
#define MCR_BPF_RELAY_H

#include <linux/errno.h>

#include "bpf/hand.h"
#include "bpf/suppress.h"
#include "shm_abi.h"

#define FRAME_HEADERS 42 /* bytes, of Ethernet, IP and UDP */
#define REWRITTEN     38 /* of them; the UDP length and checksum stay where they are */
#define UDP_AT        34
#define CHECKSUM_AT   40
#define CHUNK         512 /* bytes that bpf_csum_diff adds up, at most, before Linux 6.13 */

#define TCX_NEXT (-1) /* <linux/bpf.h> from Linux 6.6 on */
#define TCX_DROP 2

#define IP_DF     0x4000
#define NETWORK_8 MCR_NETWORK32(0xff000000)
#define XMIT_CN   2  /* NET_XMIT_CN: the packet may have been taken */
#define ERRNO_US  16 /* bits of a last error below its time */

MAP(forwards);
MAP(rejected);
MAP(rules);
MAP(outputs);
MAP(scratch);

static uint64_t (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static uint32_t (*const bpf_get_prandom_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;
static long (*const bpf_clone_redirect)(struct __sk_buff *skb, uint32_t interface,
					uint64_t flags) = (void *)BPF_FUNC_clone_redirect;
static int64_t (*const bpf_csum_diff)(const void *from, uint32_t from_size, const void *to, uint32_t to_size,
				      uint32_t seed) = (void *)BPF_FUNC_csum_diff;
static long (*const bpf_csum_level)(struct __sk_buff *skb, uint64_t level) = (void *)BPF_FUNC_csum_level;
static long (*const bpf_l4_csum_replace)(struct __sk_buff *skb, uint32_t offset, uint64_t from, uint64_t to,
					 uint64_t flags) = (void *)BPF_FUNC_l4_csum_replace;
static long (*const bpf_skb_change_tail)(struct __sk_buff *skb, uint32_t size,
					 uint64_t flags) = (void *)BPF_FUNC_skb_change_tail;
static long (*const bpf_skb_vlan_push)(struct __sk_buff *skb, uint16_t protocol,
				       uint16_t control) = (void *)BPF_FUNC_skb_vlan_push;
static long (*const bpf_skb_vlan_pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;
static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, uint32_t offset, const void *from, uint32_t size,
					 uint64_t flags) = (void *)BPF_FUNC_skb_store_bytes;

/* A VLAN tag that the kernel has taken out of a packet, and that clones would leave with. Protocol 0: there is none. */
struct tag {
	uint16_t protocol; /* network byte order */
	uint16_t control;
};

/* The headers of a packet, as they are or are to be. */
struct frame {
	uint16_t padding; /* so that the addresses are aligned */
	uint8_t macs[2 * ETH_ALEN];
	uint16_t type;
	struct mcr_ipv4 ip;
	struct mcr_udp udp;
	uint32_t rest;
} __attribute__((packed, aligned(8)));

INLINE uint16_t fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* What a sum changes by if these words do. bpf_csum_diff does as much, and is a call for each output. */
INLINE uint32_t change_of(const void *now, const void *next, uint32_t words)
{
	const uint32_t *from = now, *to = next;
	uint64_t change = 0;

#pragma clang loop unroll(full)
	for (uint32_t i = 0; i < words; i++)
		change += (uint64_t)to[i] + (uint32_t)~from[i];
	change = (change & 0xffffffff) + (change >> 32);
	return (uint32_t)(change + (change >> 32));
}

/*
 * The sum of a UDP datagram, which begins there, without its pseudo-header. Negative if it isn't there. No loop: the verifier
 * would have to follow each turn, by Linux 6.12 also those that a length can't ask for, and without CAP_PERFMON for ever.
 */
INLINE int64_t add_up(struct __sk_buff *skb, uint32_t at, uint32_t size, uint8_t *scratch)
{
	uint32_t end = at + size;
	int64_t sum = 0;
	uint64_t last;

#pragma clang loop unroll(full)
	for (uint32_t i = 0; i < MCR_BPF_LONGEST / CHUNK; i++, at += CHUNK) {
		if (at + CHUNK > end)
			break;
		if (bpf_skb_load_bytes(skb, at, scratch, CHUNK))
			return -EFAULT;
		sum = bpf_csum_diff(0, 0, scratch, CHUNK, (uint32_t)sum);
	}
	last = (uint64_t)((end - at) & (CHUNK - 1)) - 1;
	OPAQUE(last); /* before Linux 6.8 the verifier learns nothing from a comparison with 0 */
	if (last >= CHUNK - 1)
		return sum;
	*(uint32_t *)(scratch + ((last + 1) & ~3u)) = 0; /* an odd rest is followed by zeros */
	if (bpf_skb_load_bytes(skb, at, scratch, (uint32_t)last + 1))
		return -EFAULT;
	return bpf_csum_diff(0, 0, scratch, ((uint32_t)last + 4) & ~3u, (uint32_t)sum);
}

/*
 * Whether the UDP checksum is right, or nobody needs to see whether it is: as with a worker (is_vouched() of capture.c), the
 * card has, or a sender on this machine has only begun it, with the pseudo-header. `pseudo`: sum of that.
 */
INLINE bool is_sum_right(struct __sk_buff *skb, const struct mcr_udp *udp, uint32_t at, uint64_t pseudo)
{
	uint32_t size = MCR_NETWORK16(udp->length), index = 0;
	uint8_t *scratch;
	int64_t sum;

	if (skb->gso_size || udp->checksum == fold(pseudo) || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return true;
	scratch = bpf_map_lookup_elem(map_scratch, &index);
	if (!scratch) /* never: for the verifier */
		return false;
	sum = add_up(skb, at, size, scratch);
	return sum >= 0 && fold(pseudo + (uint32_t)sum) == 0xffff;
}

INLINE bool is_udp_sum_right(struct __sk_buff *skb, const struct frame *frame)
{
	uint64_t pseudo = (uint64_t)frame->ip.source + frame->ip.destination + MCR_NETWORK16(IPPROTO_UDP) +
			  frame->udp.length;

	return !frame->udp.checksum || is_sum_right(skb, &frame->udp, UDP_AT, pseudo);
}

/*
 * Have the UDP checksum follow the headers, before they are changed. 0, or negative: the packet can't be changed. The first
 * write makes the headers ready for all that follow, and fails if there is no memory for it.
 */
INLINE long move_checksum(struct __sk_buff *skb, const struct frame *now, const void *addresses, uint32_t ports)
{
	if (!now->udp.checksum) /* there is none */
		return 0;
	if (bpf_l4_csum_replace(skb, CHECKSUM_AT, 0, change_of(&now->ip.source, addresses, 2),
				BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0))
		return -ENOMEM;
	return bpf_l4_csum_replace(skb, CHECKSUM_AT, ports_of(&now->udp.ports), ports,
				   BPF_F_MARK_MANGLED_0 | sizeof(ports));
}

INLINE long write_headers(struct __sk_buff *skb, const struct frame *frame)
{
	return bpf_skb_store_bytes(skb, 0, frame->macs, REWRITTEN, 0);
}

INLINE uint16_t ip_checksum(const struct mcr_ipv4 *ip)
{
	const uint32_t *words = (const void *)ip;

	return (uint16_t)~fold((uint64_t)words[0] + words[1] + words[2] + words[3] + words[4]);
}

/* What an output may keep of the headers that a packet came with. The addresses as they stand in the header. */
struct marks {
	uint32_t source;
	uint32_t group;
	uint16_t port; /* of the source */
	uint8_t ttl;
	uint8_t service;
};

/* One of two values, `yes` if `chosen` is not 0. Without a branch: the verifier would follow both, at each output. */
INLINE uint32_t either(uint32_t chosen, uint32_t yes, uint32_t no)
{
	int64_t mask = -(int64_t)chosen;

	OPAQUE(mask); /* clang would make a branch of it */
	mask >>= 63;
	return (yes & (uint32_t)mask) | (no & ~(uint32_t)mask);
}

/* The marks that an output gives its datagrams, as a worker's plan has it (plan.c). A TTL of 0: they may not leave. */
INLINE struct marks marks_for(const struct mcr_bpf_output *to, const struct marks *came)
{
	uint32_t keeps = to->keeps, less = came->ttl - either(came->ttl, 1, 0);

	return (struct marks){
		.source = either(keeps & MCR_KEEP_SOURCE, came->source, to->source),
		.group = to->group,
		.port = (uint16_t)either(keeps & MCR_KEEP_PORT, came->port, to->source_port),
		.ttl = (uint8_t)either(keeps & MCR_DECREMENT_TTL, less,
				       either(keeps & MCR_KEEP_TTL, came->ttl, to->ttl)),
		.service = (uint8_t)either(keeps & MCR_KEEP_SERVICE, came->service, to->service),
	};
}

/*
 * Whether routers may cut it. One that can't pass a whole datagram on tells where that came from: if an output keeps
 * the address or port, or has a port of its own, that is another machine, or no socket of this one. Of groups they
 * tell nobody (RFC 1112, 7.2): there a datagram is as a UDP socket's.
 */
INLINE void allow_cuts(struct mcr_ipv4 *ip, const struct mcr_bpf_output *to)
{
	uint32_t keeps = to->keeps & (MCR_KEEP_ORIGIN | MCR_MAY_BE_CUT);
	uint32_t may_be_cut = either(keeps, (to->group & CLASS_MASK) ^ MULTICAST, 0);

	ip->fragment = (uint16_t)either(may_be_cut, 0, MCR_NETWORK16(IP_DF));
	ip->id = may_be_cut ? (uint16_t)bpf_get_prandom_u32() : 0;
}

/* Give the packet the headers of an output. `now`: those that it has. 0, or negative: they can't be changed. */
INLINE long readdress(struct __sk_buff *skb, struct frame *now, const struct mcr_bpf_output *to,
		      const struct marks *marks)
{
	if (move_checksum(skb, now, &marks->source, marks->port | (uint32_t)to->port << 16))
		return -ENOMEM;
	__builtin_memcpy(now->macs, to->macs, sizeof(now->macs));
	now->ip.service = marks->service;
	now->ip.ttl = marks->ttl;
	now->ip.source = marks->source;
	now->ip.destination = marks->group;
	allow_cuts(&now->ip, to);
	now->ip.checksum = 0;
	now->ip.checksum = ip_checksum(&now->ip);
	now->udp.ports.source = marks->port;
	now->udp.ports.destination = to->port;
	return write_headers(skb, now);
}

/* What becomes of a clone, as a positive errno: as AF_PACKET has it (net_xmit_errno). 0: it was sent. */
INLINE uint32_t error_of(long ret)
{
	if (ret < 0)
		return (uint32_t)-ret;
	return ret && ret != XMIT_CN ? ENOBUFS : 0;
}

INLINE void count_output(uint32_t slot, uint32_t error, uint32_t datagrams, uint32_t bytes, struct mcr_bpf_taken *taken)
{
	struct mcr_output_counters *output = bpf_map_lookup_elem(map_outputs, &slot);

	if (!output) /* never: for the verifier */
		return;
	add_shared(&output->submitted, datagrams);
	if (error) {
		taken->errors += datagrams;
		add_shared(&output->errors, datagrams);
		output->last_error = bpf_ktime_get_ns() / 1000 << ERRNO_US | error;
		return;
	}
	taken->sent += datagrams;
	taken->bytes += bytes;
	add_shared(&output->sent, datagrams);
	add_shared(&output->bytes, bytes);
}

INLINE uint32_t send_clone(struct __sk_buff *skb, uint32_t interface)
{
	return error_of(bpf_clone_redirect(skb, interface, 0));
}

/* With a tag, which the device writes into the frame, or the kernel for it. */
INLINE uint32_t send_tagged(struct __sk_buff *skb, const struct mcr_bpf_output *to)
{
	uint32_t error;

	if (bpf_skb_vlan_push(skb, MCR_NETWORK16(ETH_P_8021Q), to->vlan))
		return ENOMEM;
	error = send_clone(skb, to->interface);
	bpf_skb_vlan_pop(skb);
	return error;
}

/* Send a clone to an output, and give what becomes of it. */
INLINE uint32_t send(struct __sk_buff *skb, struct frame *now, const struct mcr_bpf_output *to,
		     const struct marks *came)
{
	struct marks marks = marks_for(to, came);

	if (!to->interface)
		return ENETDOWN; /* bpf_clone_redirect would call it sent */
	if (!marks.ttl)
		return ETIME;
	if (!(marks.source & NETWORK_8)) /* mcr_is_address() */
		return EADDRNOTAVAIL;
	if (readdress(skb, now, to, &marks))
		return ENOMEM;
	return to->vlan ? send_tagged(skb, to) : send_clone(skb, to->interface);
}

/* A packet that is sent to all outputs of its rule. */
struct sending {
	struct __sk_buff *skb;
	const struct mcr_bpf_rule *rule;
	struct mcr_bpf_taken *taken;
	struct frame now; /* the headers that it has */
	struct marks came;
	uint32_t datagrams;
	uint32_t bytes;
	uint32_t failed; /* its tag can't be taken off */
};

static long send_to(uint64_t i, struct sending *sending)
{
	const struct mcr_bpf_output *to = &sending->rule->outputs[i & (MCR_BPF_OUTPUTS - 1)];
	uint32_t error = sending->failed;

	if (!error)
		error = send(sending->skb, &sending->now, to, &sending->came);
	count_output(to->slot, error, sending->datagrams, sending->bytes, sending->taken);
	return 0;
}

INLINE void forward(struct sending *sending)
{
	const struct frame *now = &sending->now;

	sending->bytes = MCR_NETWORK16(now->udp.length) - sizeof(now->udp);
	sending->came = (struct marks){
		.source = now->ip.source,
		.port = now->udp.ports.source,
		.ttl = now->ip.ttl,
		.service = now->ip.service,
	};
	bpf_loop(sending->rule->head.count, send_to, sending, 0);
}

/* It has its headers again, and goes on its way. */
INLINE int leave_alone(struct __sk_buff *skb, struct tag tag, bool useless)
{
	if (tag.protocol)
		bpf_skb_vlan_push(skb, tag.protocol, tag.control);
	if (useless && !(tag.control & VLAN_ID)) /* it would be the VLAN's interface's: leave() */
		suppress(skb);
	return TCX_NEXT;
}

/* What becomes of the packet itself. `now`: the headers that it has. */
INLINE int let_go(struct __sk_buff *skb, const struct frame *original, const struct frame *now, struct tag tag,
		  bool is_sole)
{
	struct headers headers = { .ip = original->ip, .ports = original->udp.ports };
	bool useless = is_useless(skb, &headers);

	if (useless && is_sole)
		return TCX_DROP;
	move_checksum(skb, now, &original->ip.source, ports_of(&original->udp.ports));
	write_headers(skb, original);
	return leave_alone(skb, tag, useless);
}

/* Its rule was removed a moment ago. */
INLINE void count_unmatched(uint32_t capture, uint32_t datagrams)
{
	uint64_t *rejected = bpf_map_lookup_elem(map_rejected, &capture);

	if (rejected)
		*rejected += datagrams;
}

INLINE void count_matched(const struct mcr_bpf_head *rule, uint32_t datagrams, struct mcr_bpf_taken *taken)
{
	uint32_t slot = rule->slot;
	struct mcr_rule_counters *counters = bpf_map_lookup_elem(map_rules, &slot);

	taken->matched += datagrams;
	if (counters)
		add_shared(&counters->matched, datagrams);
}

INLINE struct tag tag_of(const struct __sk_buff *skb)
{
	if (!skb->vlan_present)
		return (struct tag){ 0 };
	return (struct tag){ .protocol = (uint16_t)skb->vlan_proto, .control = (uint16_t)skb->vlan_tci };
}

/* Take its tag off, if it has one. 0 or a positive errno. */
INLINE uint32_t untag(struct __sk_buff *skb, struct tag tag)
{
	return tag.protocol && bpf_skb_vlan_pop(skb) ? ENOMEM : 0;
}

/* Forward it by its rule. */
INLINE int relay_by(struct __sk_buff *skb, const struct mcr_bpf_rule *rule, const struct frame *original,
		    const struct mcr_bpf_hand *hand, struct mcr_bpf_taken *taken)
{
	uint32_t size = ETH_HLEN + MCR_NETWORK16(original->ip.total);
	bool is_sole = hand->sole; /* a clone may come back in, and what is decided of it is handed on likewise */
	struct sending sending = {
		.skb = skb, .rule = rule, .taken = taken, .now = *original, .datagrams = hand->datagrams
	};
	struct tag tag = tag_of(skb);

	if (!is_udp_sum_right(skb, original)) {
		taken->checksum += sending.datagrams;
		return TCX_NEXT;
	}
	if (skb->len > size) /* what Ethernet has filled a short frame up with */
		bpf_skb_change_tail(skb, size, 0);
	count_matched(&rule->head, sending.datagrams, taken);
	sending.failed = untag(skb, tag);
	forward(&sending);
	return sending.failed ? TCX_NEXT : let_go(skb, original, &sending.now, tag, is_sole);
}

/* Forward a datagram, or a super-frame, that the filter has found to be plain. What is to become of the packet itself. */
INLINE int relay(struct __sk_buff *skb, struct mcr_bpf_hand *hand)
{
	struct frame original = {}; /* all of it: without CAP_PERFMON no byte may be copied that was not written */
	const struct mcr_bpf_rule *rule;
	struct mcr_bpf_taken *taken;
	uint32_t capture = hand->capture;
	struct mcr_flow flow;

	if (hand->interface != skb->ifindex || bpf_skb_load_bytes(skb, 0, original.macs, FRAME_HEADERS) ||
	    hand->group != original.ip.destination || hand->ports != ports_of(&original.udp.ports)) {
		count_lost(hand);
		return TCX_NEXT;
	}
	hand->path = PATH_NONE;
	flow = mcr_flow_ipv4((uint16_t)capture, vlan_of(skb), hand->source, original.ip.destination,
			     original.udp.ports.destination);
	rule = bpf_map_lookup_elem(map_forwards, &flow);
	taken = bpf_map_lookup_elem(map_taken, &capture);
	if (rule && taken)
		return relay_by(skb, rule, &original, hand, taken);
	count_unmatched(capture, hand->datagrams);
	return TCX_NEXT;
}

#endif
