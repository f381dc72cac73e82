// SPDX-License-Identifier: MIT
#include "peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_BYTES (16 << 20) /* more than MCR's ring, which is 4 MiB */

void peer_die(const char *what)
{
	fprintf(stderr, "Error: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct in_addr address(const char *text)
{
	struct in_addr parsed;

	errno = EINVAL;
	if (inet_pton(AF_INET, text, &parsed) != 1)
		peer_die(text);
	return parsed;
}

static void parse_outputs(struct peer *peer, char *list)
{
	char *rest = list, *item;

	while ((item = strsep(&rest, ","))) {
		struct peer_output *output = &peer->outputs[peer->output_count++];
		char *group = strsep(&item, ":"), *port = strsep(&item, ":");

		if (!port || !item || peer->output_count > PEER_MAX_OUTPUTS) {
			fprintf(stderr, "Error: --out G:P:IF[,...]\n");
			exit(2);
		}
		output->to = (struct sockaddr_in){ .sin_family = AF_INET,
						   .sin_port = htons((uint16_t)atoi(port)),
						   .sin_addr = address(group) };
		snprintf(output->interface, sizeof(output->interface), "%s", item);
	}
}

static void open_output(const struct peer *peer, struct peer_output *output)
{
	struct ip_mreqn leave_by = { .imr_ifindex = (int)if_nametoindex(output->interface) };
	int no = 0, buffer = BUFFER_BYTES;

	output->fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (output->fd < 0)
		peer_die("socket");
	if (setsockopt(output->fd, SOL_SOCKET, SO_BINDTODEVICE, output->interface,
		       (socklen_t)strlen(output->interface)) ||
	    setsockopt(output->fd, IPPROTO_IP, IP_MULTICAST_IF, &leave_by, sizeof(leave_by)) ||
	    setsockopt(output->fd, IPPROTO_IP, IP_MULTICAST_LOOP, &no, sizeof(no)))
		peer_die(output->interface);
	setsockopt(output->fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
	if (peer->flows == 1 && connect(output->fd, (struct sockaddr *)&output->to, sizeof(output->to)))
		peer_die("connect");
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		peer_die("sched_setaffinity");
}

void peer_init(struct peer *peer, int argc, char **argv)
{
	static const struct option options[] = {
		{ "in", 1, NULL, 'i' },    { "group", 1, NULL, 'g' }, { "port", 1, NULL, 'p' }, { "out", 1, NULL, 'o' },
		{ "flows", 1, NULL, 'f' }, { "cpu", 1, NULL, 'c' },   { NULL, 0, NULL, 0 },
	};
	int option, cpu = -1;

	*peer = (struct peer){ .flows = 1 };
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'i':
			peer->interface = optarg;
			break;
		case 'g':
			peer->group = ntohl(address(optarg).s_addr);
			break;
		case 'p':
			peer->port = (unsigned int)atoi(optarg);
			break;
		case 'o':
			parse_outputs(peer, optarg);
			break;
		case 'f':
			peer->flows = (unsigned int)atoi(optarg);
			break;
		case 'c':
			cpu = atoi(optarg);
			break;
		default:
			exit(2);
		}
	}
	if (!peer->interface || !peer->group || !peer->port || !peer->output_count || !peer->flows) {
		fprintf(stderr, "usage: --in IF --group G --port P --out G:P:IF[,...] [--flows N] [--cpu C]\n");
		exit(2);
	}
	if (cpu >= 0)
		pin(cpu);
	for (unsigned int i = 0; i < peer->output_count; i++)
		open_output(peer, &peer->outputs[i]);
}

/* Ask for the group, so that whoever snoops IGMP forwards it; the socket stays open as long as we live. */
static void join(const struct peer *peer, int fd, unsigned int flow)
{
	struct ip_mreqn membership = { .imr_multiaddr.s_addr = htonl(peer->group + flow),
				       .imr_ifindex = (int)if_nametoindex(peer->interface) };

	if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof(membership)))
		peer_die("IP_ADD_MEMBERSHIP");
}

int peer_open_capture(const struct peer *peer)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 7, 0),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), /* EtherType */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_IP, 0, 5),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23), /* protocol */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 3),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 36), /* destination port */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, peer->port, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0x40000),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
				       .sll_protocol = htons(ETH_P_ALL),
				       .sll_ifindex = (int)if_nametoindex(peer->interface) };
	int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1, buffer = BUFFER_BYTES;

	if (fd < 0)
		peer_die("socket");
	if (!address.sll_ifindex)
		peer_die(peer->interface);
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)))
		peer_die("SO_ATTACH_FILTER");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
	setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		peer_die("bind");
	/* A membership a socket: igmp_max_memberships is 20. */
	for (unsigned int flow = 0; flow < peer->flows && flow < 500; flow++)
		join(peer, socket(AF_INET, SOCK_DGRAM, 0), flow);
	return fd;
}

int peer_open_udp(const struct peer *peer)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons((uint16_t)peer->port),
				       .sin_addr.s_addr = htonl(peer->group) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), buffer = BUFFER_BYTES;

	if (fd < 0)
		peer_die("socket");
	if (peer->flows != 1) {
		fprintf(stderr, "Error: one flow only\n");
		exit(2);
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		peer_die("bind");
	join(peer, fd, 0);
	return fd;
}

void peer_ready(void)
{
	puts("ready");
	fflush(stdout);
}

bool peer_parse(const struct peer *peer, const uint8_t *frame, size_t size, struct peer_packet *packet)
{
	size_t udp = 14 + (size_t)(frame[14] & 15) * 4, length;
	uint32_t group;

	if (size < udp + 8 || frame[23] != IPPROTO_UDP)
		return false;
	memcpy(&group, frame + 30, sizeof(group));
	packet->flow = ntohl(group) - peer->group;
	length = (size_t)(frame[udp + 4] << 8 | frame[udp + 5]);
	if (packet->flow >= peer->flows || length < 8 || udp + length > size)
		return false;
	packet->payload = frame + udp + 8;
	packet->size = length - 8;
	return true;
}

struct sockaddr_in peer_destination(const struct peer_output *output, unsigned int flow)
{
	struct sockaddr_in to = output->to;

	to.sin_addr.s_addr = htonl(ntohl(to.sin_addr.s_addr) + flow);
	return to;
}
