// SPDX-License-Identifier: MIT
/*
 * Generator: numbered UDP frames out of one interface, on a schedule that does not wait for anybody (open loop), or as
 * fast as they go. Frames are built once; a packet costs two stores and its share of a sendmmsg.
 *
 * "ready" on stdout, then waits for a line on stdin, sends, and reports as one line of JSON.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "payload.h"

#define MAX_BURST 64
#define HEADERS   42

struct settings {
	const char *interface;
	struct in_addr group, source, noise_group;
	unsigned int port, flows, noise, noise_port, size, burst, ttl;
	double rate, seconds;
	int cpu;
	bool spin;     /* wait by reading the clock: to the packet, and this processor is never idle */
	bool checksum; /* of UDP: nobody has verified it, so a relay may have to */
};

struct frame {
	unsigned char *bytes;
	uint32_t sum; /* what the UDP checksum covers beside the stamp; 0: there is none */
	bool counted; /* part of the measured traffic, not of the noise beside it */
};

struct report {
	uint64_t sent, noise, refused, late_ns;
	double seconds;
};

static void die(const char *what)
{
	fprintf(stderr, "Error: gen: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint32_t sum_words(const void *words, unsigned int size)
{
	const unsigned char *bytes = words;
	uint32_t sum = 0;

	for (unsigned int i = 0; i < size; i += 2)
		sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
	return sum;
}

static uint16_t checksum(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum += sum >> 16;
	return htons((uint16_t)~sum);
}

/* The payload is zeros but for the stamp. */
static uint32_t sum_udp(const struct iphdr *ip, const struct udphdr *udp)
{
	return sum_words(&ip->saddr, 2 * sizeof(ip->saddr)) + ip->protocol + ntohs(udp->len) +
	       sum_words(udp, sizeof(*udp));
}

static void build(struct frame *frame, const struct settings *set, const unsigned char *mac, uint32_t group,
		  unsigned int port)
{
	struct ether_header ethernet = { .ether_type = htons(ETHERTYPE_IP) };
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = htons((uint16_t)(sizeof(struct iphdr) + sizeof(struct udphdr) + set->size)),
		.frag_off = htons(IP_DF),
		.ttl = (uint8_t)set->ttl,
		.protocol = IPPROTO_UDP,
		.saddr = set->source.s_addr,
		.daddr = htonl(group),
	};
	/* Without checksum: IP asks for none, and relays that make new datagrams make their own. */
	struct udphdr udp = {
		.source = htons(4000),
		.dest = htons((uint16_t)port),
		.len = htons((uint16_t)(sizeof(struct udphdr) + set->size)),
	};

	memcpy(ethernet.ether_dhost, (unsigned char[]){ 1, 0, 0x5e, group >> 16 & 0x7f, group >> 8, group }, 6);
	memcpy(ethernet.ether_shost, mac, 6);
	ip.check = checksum(sum_words(&ip, sizeof(ip)));
	frame->sum = set->checksum ? sum_udp(&ip, &udp) : 0;
	frame->bytes = calloc(1, HEADERS + set->size);
	if (!frame->bytes)
		die("calloc");
	memcpy(frame->bytes, &ethernet, sizeof(ethernet));
	memcpy(frame->bytes + 14, &ip, sizeof(ip));
	memcpy(frame->bytes + 34, &udp, sizeof(udp));
}

/*
 * The order of sending: every flow once, each followed by its share of noise, again and again until a burst has no
 * frame twice (it would leave with the later number). Noise changes its group, as strangers do.
 */
static struct frame *build_turn(const struct settings *set, const unsigned char *mac, unsigned int *count)
{
	unsigned int once = set->flows * (1 + set->noise);
	struct frame *turn;

	*count = (MAX_BURST + once - 1) / once * once;
	turn = calloc(*count, sizeof(*turn));
	if (!turn)
		die("calloc");
	for (unsigned int at = 0; at < *count; at++) {
		unsigned int place = at % once;

		turn[at].counted = place % (1 + set->noise) == 0;
		if (turn[at].counted)
			build(&turn[at], set, mac, ntohl(set->group.s_addr) + place / (1 + set->noise), set->port);
		else
			build(&turn[at], set, mac, ntohl(set->noise_group.s_addr) + at % 64, set->noise_port);
	}
	return turn;
}

static int open_socket(const char *interface, unsigned char *mac)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1, buffer = 8 << 20;
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(interface) };
	struct ifreq request = { 0 };

	if (fd < 0)
		die("socket");
	if (!address.sll_ifindex)
		die(interface);
	strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
	if (ioctl(fd, SIOCGIFHWADDR, &request))
		die("SIOCGIFHWADDR");
	memcpy(mac, request.ifr_hwaddr.sa_data, 6);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die("bind");
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
	return fd;
}

static void send_burst(int fd, struct mmsghdr *messages, unsigned int count, struct report *report)
{
	unsigned int done = 0;

	while (done < count) {
		int sent = sendmmsg(fd, messages + done, count - done, 0);

		if (sent > 0) {
			done += (unsigned int)sent;
		} else if (errno != EINTR) {
			if (errno != ENOBUFS)
				die("sendmmsg");
			report->refused++;
		}
	}
}

static void wait_until(uint64_t due_ns, bool spin)
{
	struct timespec due = { .tv_sec = (time_t)(due_ns / 1000000000), .tv_nsec = (long)(due_ns % 1000000000) };

	if (!spin)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
	while (spin && clock_ns(CLOCK_MONOTONIC) < due_ns)
		;
}

static void set_checksum(struct frame *frame, uint32_t payload)
{
	uint16_t sum = checksum(frame->sum + payload);

	if (!sum)
		sum = 0xffff; /* 0 would say that there is none */
	memcpy(frame->bytes + HEADERS - sizeof(sum), &sum, sizeof(sum));
}

static void stamp(struct frame *frame, uint64_t due_ns, struct report *report)
{
	struct payload payload = { PAYLOAD_MAGIC, report->sent, due_ns };

	if (frame->counted) {
		memcpy(frame->bytes + HEADERS, &payload, sizeof(payload));
		if (frame->sum)
			set_checksum(frame, sum_words(&payload, sizeof(payload)));
		report->sent++;
	} else {
		report->noise++;
	}
}

/* When packet number `count` should leave. */
static uint64_t due_at(const struct settings *set, uint64_t start, uint64_t count, uint64_t now)
{
	return set->rate > 0 ? start + (uint64_t)((double)count * 1e9 / set->rate) : now;
}

static struct report send_all(int fd, const struct settings *set, struct frame *turn, unsigned int turn_length)
{
	struct mmsghdr messages[MAX_BURST] = { 0 };
	struct iovec pieces[MAX_BURST];
	struct report report = { 0 };
	uint64_t start = clock_ns(CLOCK_MONOTONIC), to_real = clock_ns(CLOCK_REALTIME) - start, now = start, due;
	uint64_t end = start + (uint64_t)(set->seconds * 1e9), count = 0;
	unsigned int at = 0;

	for (unsigned int i = 0; i < MAX_BURST; i++) {
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &pieces[i], .msg_iovlen = 1 };
		pieces[i].iov_len = HEADERS + set->size;
	}
	while ((due = due_at(set, start, count, now)) < end) {
		if (due > now)
			wait_until(due, set->spin);
		now = clock_ns(CLOCK_MONOTONIC);
		if (now > due && now - due > report.late_ns)
			report.late_ns = now - due;
		for (unsigned int i = 0; i < set->burst; i++) {
			stamp(&turn[at], due + to_real, &report);
			pieces[i].iov_base = turn[at].bytes;
			at = at + 1 < turn_length ? at + 1 : 0;
		}
		send_burst(fd, messages, set->burst, &report);
		count += set->burst;
	}
	report.seconds = (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9;
	return report;
}

static struct in_addr address(const char *text)
{
	struct in_addr parsed;

	errno = EINVAL;
	if (inet_pton(AF_INET, text, &parsed) != 1)
		die(text);
	return parsed;
}

static const struct option options[] = {
	{ "interface", 1, NULL, 'i' },   { "source", 1, NULL, 'a' },
	{ "group", 1, NULL, 'g' },       { "port", 1, NULL, 'p' },
	{ "flows", 1, NULL, 'f' },       { "noise", 1, NULL, 'n' },
	{ "noise-group", 1, NULL, 'G' }, { "noise-port", 1, NULL, 'P' },
	{ "size", 1, NULL, 's' },        { "rate", 1, NULL, 'r' },
	{ "burst", 1, NULL, 'b' },       { "seconds", 1, NULL, 't' },
	{ "cpu", 1, NULL, 'c' },         { "spin", 0, NULL, 'S' },
	{ "checksum", 0, NULL, 'C' },    { NULL, 0, NULL, 0 },
};

/* What is sent, where to. */
static bool set_flows(struct settings *set, int option)
{
	switch (option) {
	case 'i':
		set->interface = optarg;
		break;
	case 'a':
		set->source = address(optarg);
		break;
	case 'g':
		set->group = address(optarg);
		break;
	case 'p':
		set->port = (unsigned int)atoi(optarg);
		break;
	case 'f':
		set->flows = (unsigned int)atoi(optarg);
		break;
	case 'n':
		set->noise = (unsigned int)atoi(optarg);
		break;
	case 'G':
		set->noise_group = address(optarg);
		break;
	case 'P':
		set->noise_port = (unsigned int)atoi(optarg);
		break;
	default:
		return false;
	}
	return true;
}

/* How much, and how fast. */
static bool set_pace(struct settings *set, int option)
{
	switch (option) {
	case 's':
		set->size = (unsigned int)atoi(optarg);
		break;
	case 'r':
		set->rate = atof(optarg);
		break;
	case 'b':
		set->burst = (unsigned int)atoi(optarg);
		break;
	case 't':
		set->seconds = atof(optarg);
		break;
	case 'c':
		set->cpu = atoi(optarg);
		break;
	case 'S':
		set->spin = true;
		break;
	case 'C':
		set->checksum = true;
		break;
	default:
		return false;
	}
	return true;
}

static struct settings parse(int argc, char **argv)
{
	struct settings set = { .port = 5001,
				.flows = 1,
				.noise_port = 5999,
				.size = 1316,
				.burst = MAX_BURST,
				.ttl = 16,
				.seconds = 1,
				.cpu = -1 };
	int option;

	set.group = address("239.1.0.1");
	set.noise_group = address("239.99.0.1");
	set.source = address("198.18.1.1");
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (!set_flows(&set, option) && !set_pace(&set, option))
			exit(2);
	}
	if (!set.interface || !set.flows || !set.burst || set.burst > MAX_BURST || set.size < sizeof(struct payload) ||
	    set.size > 8972) {
		fprintf(stderr, "Error: gen: --interface, --flows, --burst 1-%d, --size 24-8972\n", MAX_BURST);
		exit(2);
	}
	return set;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

int main(int argc, char **argv)
{
	struct settings set = parse(argc, argv);
	unsigned char mac[6];
	unsigned int turn_length;
	int fd = open_socket(set.interface, mac);
	struct frame *turn = build_turn(&set, mac, &turn_length);
	struct report report;

	if (set.cpu >= 0)
		pin(set.cpu);
	prctl(PR_SET_TIMERSLACK, 1UL);
	puts("ready");
	fflush(stdout);
	if (getchar() == EOF)
		return 1;
	report = send_all(fd, &set, turn, turn_length);
	printf("{\"sent\": %lu, \"noise\": %lu, \"refused\": %lu, \"late_us\": %.1f, \"seconds\": %.6f}\n", report.sent,
	       report.noise, report.refused, (double)report.late_ns / 1e3, report.seconds);
	return 0;
}
