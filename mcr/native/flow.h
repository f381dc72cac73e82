/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What a rule matches, in the one form that the worker's table, the records of rules and the map of the eBPF programs
 * have in common. Compared and hashed as a whole, so it has no padding, and what is not used is 0. Python's encoder is
 * mcr/shm/flows.py.
 */
#ifndef MCR_FLOW_H
#define MCR_FLOW_H

#include <stddef.h>
#include <stdint.h>

#define MCR_FLOW_IPV4       2  /* AF_INET */
#define MCR_FLOW_IPV6       10 /* AF_INET6 */
#define MCR_FLOW_IPV4_BYTES 16 /* of a flow: all that an IPv4 flow has; the kernel takes 10 ns longer to hash 40 */

/* Addresses and port in network byte order. Of an IPv6 address the last 12 bytes stand apart. */
struct mcr_flow {
	uint16_t interface; /* slot of the input interface */
	uint16_t vlan;      /* its id; 0: untagged */
	uint16_t family;    /* of the addresses: AF_… */
	uint16_t port;      /* destination */
	uint32_t group;     /* destination */
	uint32_t source;    /* 0, and so its rest: any */
	uint32_t group_rest[3];
	uint32_t source_rest[3];
} __attribute__((aligned(8)));

_Static_assert(offsetof(struct mcr_flow, port) == 6 && offsetof(struct mcr_flow, group) == 8 &&
		       offsetof(struct mcr_flow, group_rest) == MCR_FLOW_IPV4_BYTES &&
		       offsetof(struct mcr_flow, source_rest) == 28 && sizeof(struct mcr_flow) == 40,
	       "no padding");

/* Addresses and port in network byte order. */
static inline __attribute__((always_inline)) struct mcr_flow
mcr_flow_ipv4(uint16_t interface, uint16_t vlan, uint32_t source, uint32_t group, uint16_t port)
{
	return (struct mcr_flow){
		.interface = interface,
		.vlan = vlan,
		.family = MCR_FLOW_IPV4,
		.port = port,
		.group = group,
		.source = source,
	};
}

/* Each address is four words, as they lie in a header. `source`: NULL for any. */
static inline __attribute__((always_inline)) struct mcr_flow
mcr_flow_ipv6(uint16_t interface, uint16_t vlan, const uint32_t *source, const uint32_t *group, uint16_t port)
{
	struct mcr_flow flow = {
		.interface = interface,
		.vlan = vlan,
		.family = MCR_FLOW_IPV6,
		.port = port,
		.group = group[0],
		.group_rest = { group[1], group[2], group[3] },
	};

	if (source) {
		flow.source = source[0];
		flow.source_rest[0] = source[1];
		flow.source_rest[1] = source[2];
		flow.source_rest[2] = source[3];
	}
	return flow;
}

/* The same from any source. */
static inline __attribute__((always_inline)) struct mcr_flow mcr_flow_from_any(const struct mcr_flow *flow)
{
	struct mcr_flow any = *flow;

	any.source = any.source_rest[0] = any.source_rest[1] = any.source_rest[2] = 0;
	return any;
}

static inline __attribute__((always_inline)) int mcr_flow_has_source(const struct mcr_flow *flow)
{
	return flow->source || flow->source_rest[0] || flow->source_rest[1] || flow->source_rest[2];
}

/* Eight bytes of a flow, from its fields: so the compiler leaves out what it knows to be 0, and nothing waits for a store. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define MCR_FLOW_WORD(first, second, half) ((first) | (uint64_t)(second) << (half))
#else
#define MCR_FLOW_WORD(first, second, half) ((uint64_t)(first) << (half) | (second))
#endif

static inline __attribute__((always_inline)) void mcr_flow_words(const struct mcr_flow *flow, uint64_t words[5])
{
	words[0] = MCR_FLOW_WORD(MCR_FLOW_WORD(flow->interface, flow->vlan, 16),
				 MCR_FLOW_WORD(flow->family, flow->port, 16), 32);
	words[1] = MCR_FLOW_WORD(flow->group, flow->source, 32);
	words[2] = MCR_FLOW_WORD(flow->group_rest[0], flow->group_rest[1], 32);
	words[3] = MCR_FLOW_WORD(flow->group_rest[2], flow->source_rest[0], 32);
	words[4] = MCR_FLOW_WORD(flow->source_rest[1], flow->source_rest[2], 32);
}

/* `held` has lain in memory for a while: its words are loaded as they are. */
static inline __attribute__((always_inline)) int mcr_flow_equal(const struct mcr_flow *held,
								const struct mcr_flow *other)
{
	uint64_t one[5], two[5];

	__builtin_memcpy(one, held, sizeof(one));
	mcr_flow_words(other, two);
	return one[0] == two[0] && one[1] == two[1] && one[2] == two[2] && one[3] == two[3] && one[4] == two[4];
}

/* Multilinear, with odd multipliers; the upper half has something of every bit, after it was folded into the lower one. */
static inline __attribute__((always_inline)) uint32_t mcr_flow_hash(const struct mcr_flow *flow)
{
	uint64_t words[5], sum;

	mcr_flow_words(flow, words);
	sum = words[0] * UINT64_C(0x9e3779b97f4a7c15) + words[1] * UINT64_C(0xbf58476d1ce4e5b9) +
	      words[2] * UINT64_C(0x94d049bb133111eb) + words[3] * UINT64_C(0xd6e8feb86659fd93) +
	      words[4] * UINT64_C(0xff51afd7ed558ccd);
	return (uint32_t)((sum ^ sum >> 32) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

/*
 * A hash of words, one after the other. Products of the words alone, added up, would not do: the last byte of an address is
 * the first of its word on this processor, and nothing but the first byte of the sum would differ by it.
 */
static inline __attribute__((always_inline)) uint64_t mcr_mix(uint64_t hash, uint64_t word)
{
	hash = (hash + word) * UINT64_C(0xbf58476d1ce4e5b9);
	return hash ^ hash >> 32;
}

/*
 * A flow as the capture filter's map has it, in MCR_FLOW_IPV4_BYTES: 64 bits stand for the addresses of an IPv6 flow. Were
 * those of two flows the same, a worker would get what no rule takes, and count it as such.
 */
static inline __attribute__((always_inline)) struct mcr_flow mcr_flow_brief(const struct mcr_flow *flow)
{
	struct mcr_flow brief = { .interface = flow->interface,
				  .vlan = flow->vlan,
				  .family = flow->family,
				  .port = flow->port,
				  .group = flow->group,
				  .source = flow->source };
	uint64_t words[5], sum;

	if (flow->family != MCR_FLOW_IPV6)
		return brief;
	mcr_flow_words(flow, words);
	sum = mcr_mix(mcr_mix(mcr_mix(mcr_mix(0, words[1]), words[2]), words[3]), words[4]);
	brief.group = (uint32_t)(sum >> 32);
	brief.source = (uint32_t)sum;
	return brief;
}

#endif
