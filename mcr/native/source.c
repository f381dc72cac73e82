// SPDX-License-Identifier: MIT
#include "source.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define ANY_PORT 9 /* discard; the route does not depend on it */

static int disconnect(int udp)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	return connect(udp, &none, sizeof(none)) ? -errno : 0;
}

static uint32_t source(int udp, uint32_t mtu, uint32_t group)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(ANY_PORT), .sin_addr.s_addr = group }, from;
	socklen_t size = sizeof(from), path_mtu_size = sizeof(int);
	int path_mtu;

	if (connect(udp, (struct sockaddr *)&to, sizeof(to)) ||
	    getsockopt(udp, IPPROTO_IP, IP_MTU, &path_mtu, &path_mtu_size) || (uint32_t)path_mtu != mtu ||
	    getsockname(udp, (struct sockaddr *)&from, &size))
		return 0;
	return from.sin_addr.s_addr;
}

int mcr_source_find(int udp, uint32_t mtu, const uint32_t *groups, uint32_t *sources, uint32_t count)
{
	int ret = 0;

	for (uint32_t i = 0; i < count && !ret; i++) {
		sources[i] = source(udp, mtu, groups[i]);
		ret = disconnect(udp);
	}
	return ret;
}
