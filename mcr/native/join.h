/* SPDX-License-Identifier: MIT */
/* For the supervisor: groups of a socket, of which there may be thousands in all. */
#ifndef MCR_JOIN_H
#define MCR_JOIN_H

#include <stdint.h>

/*
 * Have a socket of IPv4 join these groups, in network byte order, on an interface, one after the other until one fails.
 * How many it has joined; *error is why not the next one, as an errno, or 0.
 */
uint32_t mcr_join(int udp, int interface, const uint32_t *groups, uint32_t count, int *error);

#endif
