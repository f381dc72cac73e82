// SPDX-License-Identifier: MIT
#include "join.h"

#include <errno.h>
#include <netinet/in.h>

uint32_t mcr_join(int udp, int interface, const uint32_t *groups, uint32_t count, int *error)
{
	struct ip_mreqn wanted = { .imr_ifindex = interface };

	*error = 0;
	for (uint32_t i = 0; i < count; i++) {
		wanted.imr_multiaddr.s_addr = groups[i];
		if (setsockopt(udp, IPPROTO_IP, IP_ADD_MEMBERSHIP, &wanted, sizeof(wanted))) {
			*error = errno;
			return i;
		}
	}
	return count;
}
