/* SPDX-License-Identifier: MIT */
/*
 * Tells what comes back in a circle from what a source says again, for rules that are looked at. Pure; of fixed size.
 *
 * What a loop brings back comes because it was sent. So a datagram that comes again within MCR_RETURN_NS, with the same
 * bytes and from the same address, is held, which ends its circle. Nothing of it comes any more then, and it is lost,
 * under its cause. If more of it comes for longer than any loop takes, a source sends it: what was held leaves with it,
 * and all that is like it leaves from then on. Nothing is copied for that: one is as good as another.
 */
#ifndef MCR_RETURNS_H
#define MCR_RETURNS_H

#include <stdbool.h>
#include <stdint.h>

#include "packet.h"
#include "shm_abi.h"

#define MCR_RETURNS      8192 /* datagrams that are remembered; a power of two */
#define MCR_RETURN_WAYS  4    /* places for each, by its hash */
#define MCR_RETURN_NS    UINT64_C(200000000)
#define MCR_RETURN_PAYED 8 /* of what was held, that leave with one that comes */

/* What has come of one rule from one address, byte by byte the same. */
struct mcr_return {
	uint64_t hash; /* 0: free */
	uint64_t seen_ns;
	uint64_t since_ns; /* it is held; 0: it is not */
	uint32_t held;     /* nobody has counted them yet */
	uint32_t rule;
	uint32_t source[4]; /* as in struct mcr_packet: of IPv4 the first */
	uint16_t capture;
	bool ipv6;
	bool constant; /* a source says it again and again */
	bool queued;
};

struct mcr_returns {
	uint32_t waiting;                  /* entries in the queue */
	uint32_t first;                    /* of the queue */
	uint32_t lost[MCR_MAX_INTERFACES]; /* to be counted, by capture */
	uint32_t held[MCR_MAX_INTERFACES]; /* likewise, but what becomes of them is not known yet */
	uint16_t queue[MCR_RETURNS];       /* entries that hold something, those that began first in front */
	struct mcr_return entries[MCR_RETURNS];
};

/* A datagram as it came: the capture, the rule that takes it, its headers, and its payload. */
struct mcr_arrival {
	uint32_t capture;
	uint32_t rule;
	const struct mcr_packet *packet;
	const uint8_t *data;
	uint32_t size;
};

/*
 * How often it is to leave now: 0: it is held; more than once: others that were held leave with it. `room`: how often it
 * may, at most; 1 or more.
 */
uint32_t mcr_returns_take(struct mcr_returns *returns, const struct mcr_arrival *arrival, uint64_t now_ns,
			  uint32_t room);

/*
 * One that was held and came back no more, or NULL: nobody waits any longer. It is lost from now on, and stays as it is
 * until the next call of any of these.
 */
const struct mcr_return *mcr_returns_expire(struct mcr_returns *returns, uint64_t now_ns);

/* Nothing more comes from a capture: what was held of it is lost. */
void mcr_returns_give_up(struct mcr_returns *returns, uint32_t capture);

/* Have a capture's lost ones counted. */
void mcr_returns_collect(struct mcr_returns *returns, uint32_t capture, struct mcr_totals *add);

#endif
