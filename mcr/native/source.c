// SPDX-License-Identifier: MIT
#include "source.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
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

static int bind_to(int udp, int interface)
{
	return setsockopt(udp, SOL_SOCKET, SO_BINDTOIFINDEX, &interface, sizeof(interface)) ? -errno : 0;
}

/* To 255.255.255.255 no route leads but by the interface that the socket is bound to, which disconnecting has undone. */
static int bind_again(int udp, int interface, uint32_t destination)
{
	return destination == INADDR_BROADCAST ? bind_to(udp, interface) : 0;
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

/* Of one destination. :: if there is none, or more to do. */
static void find6(int udp, uint32_t mtu, const struct mcr_destination6 *destination, struct mcr_found6 *found)
{
	struct sockaddr_in6 from = { 0 }, to = { .sin6_family = AF_INET6, .sin6_port = destination->port };
	socklen_t size = sizeof(from);
	int path_mtu, option;

	memset(found, 0, sizeof(*found));
	memcpy(&to.sin6_addr, destination->address, sizeof(to.sin6_addr));
	option = IN6_IS_ADDR_MULTICAST(&to.sin6_addr) ? IPV6_MULTICAST_HOPS : IPV6_UNICAST_HOPS;
	if (connect(udp, (struct sockaddr *)&to, sizeof(to)) || get(udp, IPPROTO_IPV6, IPV6_MTU, &path_mtu) ||
	    (uint32_t)path_mtu != mtu || get(udp, IPPROTO_IPV6, option, &found->hops) ||
	    getsockname(udp, (struct sockaddr *)&from, &size))
		return;
	memcpy(found->source, &from.sin6_addr, sizeof(found->source));
}

int mcr_source_find6(int udp, uint32_t mtu, const struct mcr_destination6 *to, struct mcr_found6 *found, uint32_t count)
{
	int interface, ret = get(udp, SOL_SOCKET, SO_BINDTOIFINDEX, &interface);

	for (uint32_t i = 0; i < count && !ret; i++) {
		find6(udp, mtu, &to[i], &found[i]);
		ret = disconnect(udp);
		if (!ret)
			ret = bind_to(udp, interface);
	}
	return ret;
}
