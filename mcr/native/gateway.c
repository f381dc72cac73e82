// SPDX-License-Identifier: MIT
#include "gateway.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct attribute {
	struct rtattr head;
	uint32_t value;
};

/* As `ip route get ADDRESS oif INTERFACE from SOURCE` asks. */
struct question {
	struct nlmsghdr head;
	struct rtmsg route;
	struct attribute address, interface, source;
};

static struct question question(uint32_t interface, uint32_t source, uint32_t address)
{
	/* Without a source the last attribute is left out: IP chooses. */
	uint32_t size = source ? sizeof(struct question) : offsetof(struct question, source);

	return (struct question){
		.head = { .nlmsg_len = size, .nlmsg_type = RTM_GETROUTE, .nlmsg_flags = NLM_F_REQUEST },
		.route = { .rtm_family = AF_INET, .rtm_dst_len = 32, .rtm_src_len = source ? 32 : 0 },
		.address = { { sizeof(struct attribute), RTA_DST }, address },
		.interface = { { sizeof(struct attribute), RTA_OIF }, interface },
		.source = { { sizeof(struct attribute), RTA_SRC }, source },
	};
}

/* Whether datagrams to a host get a TTL that the route has. */
static bool has_hop_limit(const struct rtattr *metrics)
{
	int left = (int)RTA_PAYLOAD(metrics);

	for (const struct rtattr *each = RTA_DATA(metrics); RTA_OK(each, left); each = RTA_NEXT(each, left))
		if (each->rta_type == RTAX_HOPLIMIT)
			return true;
	return false;
}

/* Whether an attribute of a route has IP do more with a datagram than to give it headers and the next hop's MAC. */
static bool is_more(const struct rtattr *attribute, bool is_group)
{
	switch (attribute->rta_type) {
	case RTA_VIA: /* a gateway of another family */
	case RTA_ENCAP_TYPE:
		return true;
	case RTA_METRICS:
		return !is_group && has_hop_limit(attribute);
	default:
		return false;
	}
}

static struct mcr_hop read_route(const struct nlmsghdr *answer, bool is_group)
{
	const struct rtmsg *route = NLMSG_DATA(answer);
	int left = (int)RTM_PAYLOAD(answer);
	struct mcr_hop hop = { .kind = MCR_HOP_LINK };

	if (route->rtm_type == RTN_LOCAL)
		return (struct mcr_hop){ .kind = MCR_HOP_OTHER };
	if (route->rtm_type == RTN_BROADCAST)
		return (struct mcr_hop){ .kind = MCR_HOP_ALL };
	for (const struct rtattr *each = RTM_RTA(route); RTA_OK(each, left); each = RTA_NEXT(each, left)) {
		if (is_more(each, is_group))
			return (struct mcr_hop){ .kind = MCR_HOP_OTHER };
		if (each->rta_type == RTA_GATEWAY) {
			hop.kind = MCR_HOP_GATEWAY;
			memcpy(&hop.gateway, RTA_DATA(each), sizeof(hop.gateway));
		}
	}
	return hop;
}

/* 0 or -errno. */
static int ask(int netlink, const struct question *asked, struct mcr_hop *hop)
{
	union {
		struct nlmsghdr head;
		char bytes[4096];
	} answer;
	ssize_t size;

	if (send(netlink, asked, asked->head.nlmsg_len, 0) < 0)
		return -errno;
	size = recv(netlink, &answer, sizeof(answer), 0);
	if (size < 0)
		return -errno;
	if (!NLMSG_OK(&answer.head, (size_t)size))
		return -EPROTO;
	*hop = (struct mcr_hop){ .kind = MCR_HOP_NONE };
	if (answer.head.nlmsg_type == RTM_NEWROUTE)
		*hop = read_route(&answer.head, IN_MULTICAST(ntohl(asked->address.value)));
	return 0;
}

int mcr_hop_find(uint32_t interface, uint32_t source, const uint32_t *addresses, struct mcr_hop *hops, uint32_t count)
{
	int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), ret = 0;

	if (netlink < 0)
		return -errno;
	for (uint32_t i = 0; i < count && !ret; i++) {
		struct question asked = question(interface, source, addresses[i]);

		ret = ask(netlink, &asked, &hops[i]);
	}
	close(netlink);
	return ret;
}
