// SPDX-License-Identifier: MIT
#include "source.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

static int disconnect(int udp)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	return connect(udp, &none, sizeof(none)) ? -errno : 0;
}

static int get(int udp, int option, int *value)
{
	socklen_t size = sizeof(*value);

	return getsockopt(udp, IPPROTO_IP, option, value, &size) ? -errno : 0;
}

static uint32_t source(int udp, uint32_t mtu, const struct mcr_destination *destination)
{
	struct sockaddr_in from,
		to = { .sin_family = AF_INET, .sin_port = destination->port, .sin_addr.s_addr = destination->group };
	socklen_t size = sizeof(from);
	int path_mtu;

	if (connect(udp, (struct sockaddr *)&to, sizeof(to)) || get(udp, IP_MTU, &path_mtu) ||
	    (uint32_t)path_mtu != mtu || getsockname(udp, (struct sockaddr *)&from, &size))
		return 0;
	return from.sin_addr.s_addr;
}

int mcr_source_find(int udp, uint32_t mtu, const struct mcr_destination *to, uint32_t *sources, uint32_t count)
{
	int discover, ret = get(udp, IP_MTU_DISCOVER, &discover);

	if (!ret && discover != IP_PMTUDISC_WANT)
		ret = -EOPNOTSUPP;
	for (uint32_t i = 0; i < count && !ret; i++) {
		sources[i] = source(udp, mtu, &to[i]);
		ret = disconnect(udp);
	}
	return ret;
}
