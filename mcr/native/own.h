/* SPDX-License-Identifier: MIT */
/*
 * The sources that this machine sends with: its addresses, and the MACs of the interfaces in use. A datagram that arrives
 * with one of them as its source was sent by this machine, and has come back.
 */
#ifndef MCR_OWN_H
#define MCR_OWN_H

#include <stdint.h>

#include "flow.h"
#include "shm_abi.h"

#define MCR_OWN_BUCKETS (2 * MCR_MAX_OWN) /* at most half full */
#define MCR_MAC_BYTES   6
#define MCR_OWN_BITS    512 /* one line of the cache */

/* A hash table of fixed size; a key of 0 is a free bucket. */
struct mcr_own {
	struct mcr_rec_own_key buckets[MCR_OWN_BUCKETS];
};

/* An address in network byte order, told from a MAC by a bit above both. */
static inline uint64_t mcr_own_address(uint32_t address)
{
	return UINT64_C(1) << 48 | address;
}

/*
 * 63 bits stand for an IPv6 address, four words as they lie in a header. That a stranger's are those of one of a thousand
 * own ones is as likely as that he draws one of these out of ten million billion.
 */
static inline uint64_t mcr_own_address6(const uint32_t *address)
{
	uint64_t halves[2];

	__builtin_memcpy(halves, address, sizeof(halves));
	return UINT64_C(1) << 63 | mcr_mix(mcr_mix(0, halves[0]), halves[1]);
}

static inline uint64_t mcr_own_mac(const uint8_t *mac)
{
	uint64_t key = 0;

	__builtin_memcpy(&key, mac, MCR_MAC_BYTES);
	return UINT64_C(1) << 49 | key;
}

static inline uint32_t mcr_own_bucket(uint64_t key)
{
	/* Multiplicative hashing, as in match.c. */
	return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 40) % MCR_OWN_BUCKETS;
}

/* One that is set tells of this key, or of one of some others. */
static inline uint32_t mcr_own_bit(uint64_t key)
{
	return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 55) % MCR_OWN_BITS;
}

/* Why a datagram with this source is dropped; MCR_CAUSE_NONE: this machine did not send it. */
static inline enum mcr_cause mcr_own_find(const struct mcr_own *own, uint64_t key)
{
	uint32_t at = mcr_own_bucket(key);

	for (; own->buckets[at].key; at = (at + 1) % MCR_OWN_BUCKETS)
		if (own->buckets[at].key == key)
			return (enum mcr_cause)own->buckets[at].cause;
	return MCR_CAUSE_NONE;
}

/* Hold these and no others. 0, or -EINVAL for too many, or an impossible one. */
int mcr_own_set(struct mcr_own *own, const struct mcr_rec_own_key *keys, uint32_t count);

#endif
