/* SPDX-License-Identifier: MIT */
/* The frames of batch_world.h by IPv6: sound, with one fault, made of chance, and in fragments. */
#ifndef BATCH_IPV6_H
#define BATCH_IPV6_H

#include "batch_world.h"

#define IPV6_BYTES 40u
#define FRAGMENT   8u /* bytes of its header */

static void sum_udp6(const struct draft *d)
{
	uint32_t size = 8 + d->payload, sum;

	store16(udp_of(d) + 6, 0);
	sum = ~sum16(sum16(17 + size, ip_of(d) + 8, 32), udp_of(d), size) & 0xffff;
	store16(udp_of(d) + 6, sum ? sum : 0xffff);
}

/* Up to four extension headers. */
static void draft_datagram6(struct draft *d, uint32_t rule)
{
	d->size = put_headers6(d->frame, rnd(4) ? 0 : 1 + rnd(4), d->payload, (uint8_t)rule, 5000 + rule);
	d->header = d->size - ETHERNET - 8 - d->payload;
	fill(udp_of(d) + 8, marks[d->kind], d->payload);
	set_link(d);
	d->link.sll_protocol = htons(ETH_P_IPV6);
	sum_udp6(d);
}

static void mistake_source6(struct draft *d)
{
	static const uint8_t sources[][16] = {
		{ 0 },
		{ [15] = 1 },
		{ 0xff, 2, [15] = 1 },
		{ [10] = 0xff, 0xff, 198, 18, 0, 1 },
	};

	if (rnd(2)) {
		memcpy(ip_of(d) + 8, sources[rnd(4)], 16);
		sum_udp6(d);
	} else {
		d->link.sll_halen = sizeof(own_mac);
		memcpy(d->link.sll_addr, own_mac, sizeof(own_mac));
	}
}

/* A length that no sound datagram has, or a header that hides what it is. */
static void misshape6(struct draft *d)
{
	switch (rnd(3)) {
	case 0:
		store16(ip_of(d) + 4, d->size - ETHERNET - IPV6_BYTES + 1 + rnd(1000));
		break;
	case 1:
		store16(udp_of(d) + 4, rnd(2) ? rnd(8) : 9 + d->payload + rnd(1000));
		break;
	default:
		ip_of(d)[6] = 43; /* a routing header */
	}
}

/* In one thing it is not as it should be. */
static void spoil6(struct draft *d)
{
	switch (rnd(5)) {
	case 0:
		if (!d->offload.gso_type) {
			d->status &= ~(uint32_t)(TP_STATUS_CSUM_VALID | TP_STATUS_CSUMNOTREADY);
			if (rnd(2))
				store16(udp_of(d) + 6, 0); /* which IPv6 does not allow */
			else
				udp_of(d)[7] ^= 0x55;
			break;
		}
		__attribute__((fallthrough));
	case 1:
		mistake_source6(d);
		break;
	case 2:
		d->frame[0] = 2;
		d->link.sll_pkttype = PACKET_OTHERHOST;
		break;
	case 3:
		ip_of(d)[38] ^= (uint8_t)(1 + rnd(255)); /* to a group that no rule wants */
		break;
	default:
		misshape6(d);
	}
}

/* For a rule of this ring that takes IPv6. */
static void make6(struct world *w, uint32_t slot, struct draft *d)
{
	uint32_t rule;

	do
		rule = slot + CAPTURES * rnd((RULES - slot + CAPTURES - 1) / CAPTURES);
	while (!takes_ipv6(rule));
	d->kind = (enum kind)rnd(3);
	d->payload = rnd(8) ? rnd(200) * (rnd(8) > 0) : rnd(1400);
	d->datagrams = 1;
	d->status = TP_STATUS_USER | (rnd(4) ? 0 : rnd(1u << 16));
	draft_datagram6(d, rule);
	if (slot < DESCRIBED && d->header == IPV6_BYTES && !rnd(4))
		merge(d);
	if (d->kind == UNSOUND)
		spoil6(d);
	if (d->kind == CHANCE)
		scramble(d);
	if (d->kind == SOUND && w->held & 1u << rule)
		w->owed += d->datagrams;
}

static bool is_ipv6(const struct draft *d)
{
	return d->frame[12] == 0x86;
}

/* A sound datagram without extension headers in two fragments, the last one first as often as not. */
static void put_in_parts6(struct world *w, uint32_t slot, const struct draft *d)
{
	static uint8_t frame[MAX_FRAME];
	struct draft part = *d;
	uint32_t behind = 8 + d->payload, cut = 8 * (1 + rnd((behind - 1) / 8)), last = rnd(2);

	for (uint32_t i = 0; i < 2; i++, last = !last) {
		uint32_t size = last ? behind - cut : cut;
		uint8_t *header = frame + ETHERNET + IPV6_BYTES;

		part.frame = frame;
		part.size = ETHERNET + IPV6_BYTES + FRAGMENT + size;
		memcpy(frame, d->frame, ETHERNET + IPV6_BYTES);
		ip_of(&part)[6] = 44;
		store16(ip_of(&part) + 4, FRAGMENT + size);
		memset(header, 0, FRAGMENT);
		header[0] = 17;
		store16(header + 2, last ? cut : 1);
		store16(header + 6, 1 + (uint32_t)(w->parts6 % 32000));
		memcpy(header + FRAGMENT, udp_of(d) + (last ? cut : 0), size);
		put(w, slot, &part);
	}
	w->parts6++;
}

#endif
