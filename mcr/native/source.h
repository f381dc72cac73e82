/* SPDX-License-Identifier: MIT */
/* For the supervisor: what IP would do with datagrams to a group. */
#ifndef MCR_SOURCE_H
#define MCR_SOURCE_H

#include <stdint.h>

/*
 * The source address that datagrams from a UDP socket to each of these groups get; 0 where there is more to it than that:
 * no route, or one that forbids sending (EACCES and the like), a path MTU other than `mtu`, IPsec. It asks by connect(2),
 * which sends nothing. Addresses are in network byte order. 0, or the -errno of a socket that can't be asked.
 */
int mcr_source_find(int udp, uint32_t mtu, const uint32_t *groups, uint32_t *sources, uint32_t count);

#endif
