// SPDX-License-Identifier: MIT
#include "source.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

static int disconnect(int udp)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	return connect(udp, &none, sizeof(none)) ? -errno : 0;
}

static int get(int udp, int level, int option, int *value)
{
	socklen_t size = sizeof(*value);

	return getsockopt(udp, level, option, value, &size) ? -errno : 0;
}

/* To 255.255.255.255 no route leads but by the interface that the socket is bound to, which disconnecting has undone. */
static int bind_again(int udp, int interface, uint32_t destination)
{
	if (destination != INADDR_BROADCAST)
		return 0;
	return setsockopt(udp, SOL_SOCKET, SO_BINDTOIFINDEX, &interface, sizeof(interface)) ? -errno : 0;
}

/* There is a way to every group by an interface, unless that is down (ip_route_output_key_hash_rcu() in Linux). */
static int why_no_way(int udp, const struct sockaddr_in *to, int error)
{
	struct sockaddr_in group = *to;

	group.sin_addr.s_addr = htonl(INADDR_ALLHOSTS_GROUP);
	if (error != ENETUNREACH)
		return 0;
	if (!IN_MULTICAST(ntohl(to->sin_addr.s_addr)) && !connect(udp, (struct sockaddr *)&group, sizeof(group)))
		return 0;
	return -ENETDOWN;
}

static int find(int udp, uint32_t mtu, const struct mcr_destination *destination, uint32_t *source)
{
	struct sockaddr_in from,
		to = { .sin_family = AF_INET, .sin_port = destination->port, .sin_addr.s_addr = destination->group };
	socklen_t size = sizeof(from);
	int path_mtu;

	*source = 0;
	if (connect(udp, (struct sockaddr *)&to, sizeof(to)))
		return why_no_way(udp, &to, errno);
	if (!get(udp, IPPROTO_IP, IP_MTU, &path_mtu) && (uint32_t)path_mtu == mtu &&
	    !getsockname(udp, (struct sockaddr *)&from, &size))
		*source = from.sin_addr.s_addr;
	return 0;
}

int mcr_source_find(int udp, uint32_t mtu, const struct mcr_destination *to, uint32_t *sources, uint32_t count)
{
	int discover, interface, ret = get(udp, IPPROTO_IP, IP_MTU_DISCOVER, &discover);

	if (!ret && discover != IP_PMTUDISC_WANT)
		ret = -EOPNOTSUPP;
	if (!ret)
		ret = get(udp, SOL_SOCKET, SO_BINDTOIFINDEX, &interface);
	for (uint32_t i = 0; i < count && !ret; i++) {
		ret = bind_again(udp, interface, to[i].group);
		if (ret)
			break;
		ret = find(udp, mtu, &to[i], &sources[i]);
		if (!ret)
			ret = disconnect(udp);
	}
	return ret;
}
