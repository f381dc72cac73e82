/* SPDX-License-Identifier: MIT */
/* For the supervisor: whom IP would hand datagrams to on the link. */
#ifndef MCR_GATEWAY_H
#define MCR_GATEWAY_H

#include <stdint.h>

#define MCR_HOP_NONE    0 /* no route */
#define MCR_HOP_LINK    1 /* to the destination itself: a host, or whoever listens to a group */
#define MCR_HOP_GATEWAY 2 /* to a gateway: its hardware address, which ARP finds, also for a group */
#define MCR_HOP_OTHER   3 /* IP would do more: a gateway of IPv6, an encapsulation, a hop limit, local delivery */
#define MCR_HOP_ALL     4 /* to all on the link: the destination is a broadcast address there */

struct mcr_hop {
	uint32_t kind;
	uint32_t gateway; /* network byte order; of MCR_HOP_GATEWAY */
};

/*
 * The next hops by an interface for datagrams to these groups or hosts. Addresses in network byte order; `source`: that
 * datagrams come from, 0: IP chooses. 0 or -errno.
 */
int mcr_hop_find(uint32_t interface, uint32_t source, const uint32_t *addresses, struct mcr_hop *hops, uint32_t count);

#endif
