// SPDX-License-Identifier: MIT
/*
 * Shows sound, mutated and truncated frames to the capture filter, by BPF_PROG_TEST_RUN, and to the worker's parser: they
 * have to agree. Ends with 77 where this process may not load eBPF.
 *
 *	filter_verdicts ROUNDS SEED
 */
#include <arpa/inet.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bpf/load.h"
#include "common.h"
#include "packet.h"
#include "parse.h"

#define CAPTURE   3
#define MAX_FRAME 512
#define FORBIDDEN 77

struct filter {
	int program, rejected;
	uint64_t count;
};

static struct mcr_flow admitted(void)
{
	return mcr_flow_ipv4(CAPTURE, 0, 0, htonl(0xef010101), htons(5000));
}

static struct mcr_flow admitted6(void)
{
	const uint32_t group[4] = { htonl(0xff150000), 0, 0, htonl(1) };

	return mcr_flow_ipv6(CAPTURE, 0, NULL, group, htons(5000));
}

static struct filter load_filter(void)
{
	const struct mcr_bpf_filter plan = { .capture = CAPTURE };
	int wanted = mcr_bpf_open_wanted();
	struct filter filter = { .rejected = mcr_bpf_open_rejected() };
	struct mcr_flow flow = admitted(), flow6 = admitted6(), fragments = admitted(), fragments6 = admitted6();

	fragments.port = fragments6.port = 0;
	if (wanted == -EPERM)
		exit(FORBIDDEN);
	filter.program = mcr_bpf_load_filter(wanted, filter.rejected, NULL, &plan);
	CHECK(filter.program >= 0);
	CHECK(!mcr_bpf_put(wanted, &flow, 1) && !mcr_bpf_put(wanted, &flow6, 1));
	CHECK(!mcr_bpf_put(wanted, &fragments, 1) && !mcr_bpf_put(wanted, &fragments6, 1));
	return filter;
}

static uint32_t run(const struct filter *filter, const uint8_t *frame, uint32_t size)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = (uint32_t)filter->program;
	attr.test.data_in = (uintptr_t)frame;
	attr.test.data_size_in = size;
	CHECK(!syscall(__NR_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)));
	return attr.test.retval;
}

/* How many datagrams the filter has counted since the last time. */
static uint64_t counted(struct filter *filter)
{
	uint64_t before = filter->count;

	CHECK(!mcr_bpf_count(filter->rejected, CAPTURE, &filter->count));
	return filter->count - before;
}

/* By the filter's contract (bpf/load.h) and the worker's parser; -1: either will do, as only the worker reads lengths. */
static int expected(const uint8_t *frame, uint32_t size)
{
	struct mcr_flow flow, wanted = admitted();
	struct mcr_packet packet;
	int ret = mcr_packet_parse(frame, size, ETHERNET, &packet);

	if (ret == 0) {
		flow = mcr_flow_ipv4(CAPTURE, 0, 0, packet.group, packet.port);
		return mcr_flow_equal(&wanted, &flow);
	}
	if (ret == -EPROTONOSUPPORT)
		return frame[ETHERNET + 9] == 17;
	if (ret != -EOPNOTSUPP)
		return -1;
	flow = mcr_flow_ipv4(CAPTURE, 0, 0, ((const struct mcr_ipv4 *)(frame + ETHERNET))->destination, wanted.port);
	return mcr_flow_equal(&wanted, &flow);
}

static bool is_extension(uint8_t protocol)
{
	return protocol == 0 || protocol == 43 || protocol == 44 || protocol == 60 || protocol == 51;
}

enum part { WHOLE, FIRST, LATER, FOREIGN };

/* Whether it is the first fragment of UDP, one that may belong to such a one, or to something else; by RFC 8200 alone. */
static enum part part_of(const uint8_t *frame, uint32_t size)
{
	uint32_t at = ETHERNET + 40;
	uint8_t next = frame[ETHERNET + 6];
	bool part = false;

	for (int i = 0; i < 4; i++) {
		const uint8_t *header = frame + at;

		if (at + 4 > size || !is_extension(next))
			return WHOLE;
		if (next == 44 && header[2] | (header[3] & 0xf8))
			return header[0] == 17 || is_extension(header[0]) ? LATER : FOREIGN;
		part |= next == 44 && header[3] & 1;
		at += next == 44 ? 8 : next == 51 ? 4u * (header[1] + 2) : 8u * (header[1] + 1);
		next = header[0];
		if (next == 17)
			return part ? FIRST : WHOLE;
	}
	return WHOLE;
}

/* The same of IPv6: behind extension headers only the worker looks, but for what is a fragment of which group. */
static int expected6(const uint8_t *frame, uint32_t size)
{
	struct mcr_flow flow, wanted = admitted6();
	struct mcr_packet packet;
	int ret = mcr_packet_parse(frame, size, ETHERNET, &packet);
	enum part part;

	if (size < ETHERNET + 44)
		return 1;
	if (frame[ETHERNET] >> 4 != 6)
		return 0;
	if (frame[ETHERNET + 6] != 17) {
		part = part_of(frame, size);
		CHECK(ret != -EOPNOTSUPP || part == FIRST || part == LATER);
		if (part == WHOLE || part == FOREIGN)
			return is_extension(frame[ETHERNET + 6]) && part == WHOLE;
		return !memcmp(frame + ETHERNET + 24, "\xff\x15\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16);
	}
	if (ret)
		return -1;
	flow = mcr_flow_ipv6(CAPTURE, 0, NULL, packet.group6, packet.port);
	return mcr_flow_equal(&wanted, &flow);
}

static bool is_udp(const uint8_t *frame, uint32_t size)
{
	if (frame[12] == 8)
		return frame[ETHERNET + 9] == 17;
	if (size < ETHERNET + 44 || frame[ETHERNET] >> 4 != 6)
		return false;
	return frame[ETHERNET + 6] == 17 || part_of(frame, size) == FIRST || part_of(frame, size) == LATER;
}

static void check(struct filter *filter, const uint8_t *frame, uint32_t size)
{
	bool accepted = run(filter, frame, size) >= size;
	int wish = (frame[12] == 8 ? expected : expected6)(frame, size);

	CHECK(wish < 0 || accepted == wish);
	CHECK(counted(filter) == (is_udp(frame, size) && !accepted));
}

/* Have one of its extension headers be a fragment's. */
static void cut(uint8_t *frame, uint32_t size)
{
	uint32_t at = ETHERNET + 40;
	uint8_t *next = frame + ETHERNET + 6;

	while (*next != 17 && rnd(2) && at + 8u * (frame[at + 1] + 1) + 8 < size) {
		next = frame + at;
		at += 8u * (frame[at + 1] + 1);
	}
	if (*next == 17 || at + 8 > size || !rnd(3))
		return;
	*next = 44;
	frame[at + 1] = 0;
	store16(frame + at + 2, rnd(2) ? 1 : 1u << rnd(16));
}

/* A datagram of one of four flows, one of them admitted, with up to three bytes spoilt. How many bytes are there. */
static uint32_t draw(uint8_t *frame)
{
	bool ipv6 = rnd(2);
	uint32_t header = 20 + 4 * rnd(11), padding = rnd(20), mutations = rnd(4);
	uint8_t group = (uint8_t)(1 + rnd(2));
	uint32_t port = 5000 + rnd(2), payload = rnd(64), size, least;

	size = ipv6 ? put_headers6(frame, rnd(2) * rnd(5), payload, group, port)
		    : put_headers(frame, header, payload, group, port);
	size += padding;
	for (uint32_t i = 0; i < mutations; i++)
		frame[rnd(size)] = (uint8_t)rnd(256);
	if (!ipv6 && !rnd(8))
		store16(frame + ETHERNET + 6, 1u << rnd(14)); /* a fragment */
	if (ipv6 && frame[ETHERNET + 6] != 17)
		cut(frame, size);
	store16(frame + 12, ipv6 ? 0x86dd : 0x800); /* of IP: the kernel looks at no other's headers */
	least = ETHERNET + (ipv6 ? 40 : 20);        /* of fewer bytes newer kernels make no packet */
	return mutations && !rnd(4) ? least + rnd(size - least + 1) : size;
}

int main(int argc, char **argv)
{
	uint8_t frame[MAX_FRAME] = { 0 };
	struct filter filter;
	uint64_t rounds;

	if (argc != 3)
		return 2;
	rounds = strtoull(argv[1], NULL, 10);
	seed(strtoull(argv[2], NULL, 10));
	filter = load_filter();
	for (uint64_t round = 0; round < rounds; round++)
		check(&filter, frame, draw(frame));
	printf("%llu frames, %llu counted as rejected\n", (unsigned long long)rounds, (unsigned long long)filter.count);
	return !filter.count || filter.count == rounds;
}
