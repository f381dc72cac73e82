/* SPDX-License-Identifier: MIT */
/* For the supervisor: what IP would do with datagrams to a group. */
#ifndef MCR_SOURCE_H
#define MCR_SOURCE_H

#include <stdint.h>

struct mcr_destination {
	uint32_t group; /* network byte order */
	uint16_t port;  /* network byte order */
};

/*
 * The source address, in network byte order, of datagrams from a UDP socket to each of these. 0: none leave as raw frames,
 * as no route leads there, or the path MTU is not `mtu`. It asks by connect(2), which sends nothing. The socket must have
 * its interface by SO_BINDTOIFINDEX, and by IP_MULTICAST_IF, because each connect(2) undoes the former.
 * 0, -EOPNOTSUPP if datagrams are not to have DF set (net.ipv4.ip_no_pmtu_disc), -ENETDOWN if the interface is down, or the
 * -errno of a socket that can't be asked.
 */
int mcr_source_find(int udp, uint32_t mtu, const struct mcr_destination *to, uint32_t *sources, uint32_t count);

struct mcr_destination6 {
	uint8_t address[16];
	uint16_t port; /* network byte order */
};

struct mcr_found6 {
	uint8_t source[16];
	int hops; /* the limit that they leave with */
};

/*
 * The same of IPv6: to groups and hosts, with the interface as the zone. A source of :: if none leave without more help of IP.
 * The socket needs its interface by SO_BINDTOIFINDEX alone.
 */
int mcr_source_find6(int udp, uint32_t mtu, const struct mcr_destination6 *to, struct mcr_found6 *found,
		     uint32_t count);

#endif
