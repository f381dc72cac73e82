/* SPDX-License-Identifier: MIT */
/* How the kernel of batch_world.h fills the rings: frame by frame, and sound datagrams in fragments among them. */
#ifndef BATCH_RINGS_H
#define BATCH_RINGS_H

#include "batch_ipv6.h"

/* A sound datagram in two fragments, the last one first as often as not. */
static void put_in_parts(struct world *w, uint32_t slot, const struct draft *d)
{
	static uint8_t frame[MAX_FRAME];
	struct draft part = *d;
	uint32_t behind = 8 + d->payload, cut = 8 * (1 + rnd((behind - 1) / 8)), last = rnd(2);

	for (uint32_t i = 0; i < 2; i++, last = !last) {
		part.frame = frame;
		part.size = ETHERNET + d->header + (last ? behind - cut : cut);
		memcpy(frame, d->frame, ETHERNET + d->header);
		memcpy(frame + ETHERNET + d->header, udp_of(d) + (last ? cut : 0), last ? behind - cut : cut);
		store16(ip_of(&part) + 2, part.size - ETHERNET);
		store16(ip_of(&part) + 4, 1 + w->parts % 32000);
		store16(ip_of(&part) + 6, last ? cut / 8 : 0x2000);
		sum_ip(&part);
		put(w, slot, &part);
	}
	w->parts++;
}

/* Whether it is sound, and short enough for a slot in any case. */
static bool is_to_be_cut(const struct draft *d)
{
	return d->kind == SOUND && !d->offload.gso_type && d->payload && !rnd(4) &&
	       (!is_ipv6(d) || d->header == IPV6_BYTES);
}

/* Fill some slots of a ring. How many. */
static uint32_t world_fill(struct world *w, uint32_t slot)
{
	static uint8_t frame[MAX_FRAME];
	uint32_t count = 1 + rnd(rnd(4) ? 8 : RING_SLOTS), filled = 0;
	struct mcr_capture *capture = &w->worker->captures[slot];

	while (filled < count) {
		struct draft d = { .frame = frame };
		bool cut;

		(rnd(4) ? make : make6)(w, slot, &d);
		cut = count - filled > 1 && is_to_be_cut(&d);
		if (cut)
			(is_ipv6(&d) ? put_in_parts6 : put_in_parts)(w, slot, &d);
		else
			put(w, slot, &d);
		filled += 1 + cut;
	}
	if (!rnd(16)) /* a predecessor has died with some of them in its hand */
		capture->in_doubt = 1 + rnd(count < RING_SLOTS / 2 ? count : RING_SLOTS / 2);
	return count;
}

#endif
