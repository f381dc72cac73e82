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

/* As `ip route get GROUP oif INTERFACE` asks. */
struct question {
	struct nlmsghdr head;
	struct rtmsg route;
	struct attribute group, interface;
};

static struct question question(uint32_t interface, uint32_t group)
{
	return (struct question){
		.head = { .nlmsg_len = sizeof(struct question),
			  .nlmsg_type = RTM_GETROUTE,
			  .nlmsg_flags = NLM_F_REQUEST },
		.route = { .rtm_family = AF_INET, .rtm_dst_len = 32 },
		.group = { { sizeof(struct attribute), RTA_DST }, group },
		.interface = { { sizeof(struct attribute), RTA_OIF }, interface },
	};
}

static bool has_gateway(const struct nlmsghdr *answer)
{
	const struct rtmsg *route = NLMSG_DATA(answer);
	int left = (int)RTM_PAYLOAD(answer);

	for (const struct rtattr *each = RTM_RTA(route); RTA_OK(each, left); each = RTA_NEXT(each, left))
		if (each->rta_type == RTA_GATEWAY || each->rta_type == RTA_VIA)
			return true;
	return false;
}

/* 1: to a gateway, 0: not, or there is no route; or -errno. */
static int ask(int netlink, uint32_t interface, uint32_t group)
{
	struct question asked = question(interface, group);
	union {
		struct nlmsghdr head;
		char bytes[4096];
	} answer;
	ssize_t size;

	if (send(netlink, &asked, sizeof(asked), 0) < 0)
		return -errno;
	size = recv(netlink, &answer, sizeof(answer), 0);
	if (size < 0)
		return -errno;
	if (!NLMSG_OK(&answer.head, (size_t)size))
		return -EPROTO;
	return answer.head.nlmsg_type == RTM_NEWROUTE && has_gateway(&answer.head);
}

int mcr_gateway_find(uint32_t interface, const uint32_t *groups, uint8_t *found, uint32_t count)
{
	int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), ret = 0;

	if (netlink < 0)
		return -errno;
	for (uint32_t i = 0; i < count && ret >= 0; i++) {
		ret = ask(netlink, interface, groups[i]);
		found[i] = ret > 0;
	}
	close(netlink);
	return ret < 0 ? ret : 0;
}
