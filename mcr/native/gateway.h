/* SPDX-License-Identifier: MIT */
/* For the supervisor: which groups IP would send to a gateway. */
#ifndef MCR_GATEWAY_H
#define MCR_GATEWAY_H

#include <stdint.h>

/*
 * For each of these groups (network byte order) whether its route by this interface leads to a gateway. Datagrams to such a
 * group go to the gateway's hardware address, not to the group's, and wait for the gateway's ARP answer. 0 or -errno.
 */
int mcr_gateway_find(uint32_t interface, const uint32_t *groups, uint8_t *found, uint32_t count);

#endif
