// SPDX-License-Identifier: MIT
/*
 * Latency sink: when the kernel had each packet at the far end, less when it was due to leave the generator. A late
 * generator or a stalled relay is part of it (no coordinated omission); this process's own wake-up is not.
 *
 * "ready" on stdout; at the end of stdin, one line of JSON.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "payload.h"

#define FRAMES     (1 << 19)
#define FRAME_SIZE 256
#define BLOCK_SIZE (1 << 17)
#define SNAP       128
#define SUB_BITS   5 /* 32 buckets for each doubling: 3 % wide */
#define BUCKETS    (64 << SUB_BITS)

struct histogram {
	uint64_t buckets[BUCKETS], count, max, early;
};

struct ring {
	int fd;
	unsigned char *slots;
};

struct seen {
	uint64_t received, next, backwards;
};

static void die(const char *what)
{
	fprintf(stderr, "Error: latency: %s: %s\n", what, strerror(errno));
	exit(1);
}

static unsigned int bucket_of(uint64_t value)
{
	unsigned int shift;

	if (value < 1 << SUB_BITS)
		return (unsigned int)value;
	shift = 63 - (unsigned int)__builtin_clzll(value) - SUB_BITS;
	return (shift + 1) << SUB_BITS | (unsigned int)(value >> shift & ((1 << SUB_BITS) - 1));
}

/* The middle of a bucket. */
static double value_of(unsigned int bucket)
{
	unsigned int shift = (bucket >> SUB_BITS) - 1;
	uint64_t base = 1 << SUB_BITS | (bucket & ((1 << SUB_BITS) - 1));

	if (bucket < 1 << SUB_BITS)
		return bucket;
	return ((double)base + 0.5) * (double)(UINT64_C(1) << shift);
}

static double quantile_us(const struct histogram *histogram, double quantile)
{
	uint64_t wanted = (uint64_t)((double)histogram->count * quantile), sum = 0;

	for (unsigned int i = 0; i < BUCKETS; i++) {
		sum += histogram->buckets[i];
		if (sum > wanted)
			return value_of(i) / 1e3;
	}
	return (double)histogram->max / 1e3;
}

static void record(struct histogram *histogram, uint64_t arrived, uint64_t due)
{
	uint64_t took = arrived > due ? arrived - due : 0;

	if (arrived < due) /* the clock was set back */
		histogram->early++;
	histogram->buckets[bucket_of(took)]++;
	histogram->count++;
	if (took > histogram->max)
		histogram->max = took;
}

/* Packets go to a ring, cut short; nobody wakes up for one, as that would take time from what is measured. */
static struct ring open_ring(const char *interface)
{
	struct tpacket_req shape = { .tp_block_size = BLOCK_SIZE,
				     .tp_block_nr = FRAMES / (BLOCK_SIZE / FRAME_SIZE),
				     .tp_frame_size = FRAME_SIZE,
				     .tp_frame_nr = FRAMES };
	struct sock_filter cut = BPF_STMT(BPF_RET | BPF_K, SNAP);
	struct sock_fprog program = { 1, &cut };
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
				       .sll_protocol = htons(ETH_P_IP),
				       .sll_ifindex = (int)if_nametoindex(interface) };
	int version = TPACKET_V2;
	struct ring ring = { .fd = socket(AF_PACKET, SOCK_RAW, 0) };

	if (ring.fd < 0)
		die("socket");
	if (!address.sll_ifindex)
		die(interface);
	if (setsockopt(ring.fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)))
		die("SO_ATTACH_FILTER");
	if (setsockopt(ring.fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)))
		die("PACKET_VERSION");
	if (setsockopt(ring.fd, SOL_PACKET, PACKET_RX_RING, &shape, sizeof(shape)))
		die("PACKET_RX_RING");
	ring.slots = mmap(NULL, (size_t)FRAMES * FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, 0);
	if (ring.slots == MAP_FAILED)
		die("mmap");
	if (bind(ring.fd, (struct sockaddr *)&address, sizeof(address)))
		die("bind");
	return ring;
}

static bool find_payload(const unsigned char *frame, size_t size, unsigned int port, struct payload *payload)
{
	size_t udp = 14 + (size_t)(frame[14] & 15) * 4;

	if (size < udp + 8 + sizeof(*payload) || frame[23] != IPPROTO_UDP)
		return false;
	if ((unsigned int)(frame[udp + 2] << 8 | frame[udp + 3]) != port)
		return false;
	memcpy(payload, frame + udp + 8, sizeof(*payload));
	return payload->magic == PAYLOAD_MAGIC;
}

static void read_ring(const struct ring *ring, unsigned int port, struct histogram *histogram, struct seen *seen)
{
	for (unsigned int i = 0; i < FRAMES; i++) {
		const struct tpacket2_hdr *header = (void *)(ring->slots + (size_t)i * FRAME_SIZE);
		struct payload payload;

		if (!(__atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
			return;
		if (!find_payload((const unsigned char *)header + header->tp_mac, header->tp_snaplen, port, &payload))
			continue;
		record(histogram, (uint64_t)header->tp_sec * UINT64_C(1000000000) + header->tp_nsec, payload.due_ns);
		seen->received++;
		if (payload.sequence < seen->next)
			seen->backwards++;
		else
			seen->next = payload.sequence + 1;
	}
}

int main(int argc, char **argv)
{
	static struct histogram histogram;
	struct tpacket_stats stats = { 0 };
	socklen_t size = sizeof(stats);
	struct seen seen = { 0 };
	struct ring ring;

	if (argc != 3) {
		fprintf(stderr, "usage: latency PORT INTERFACE\n");
		return 2;
	}
	ring = open_ring(argv[2]);
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	read_ring(&ring, (unsigned int)atoi(argv[1]), &histogram, &seen);
	if (getsockopt(ring.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) || stats.tp_drops) {
		fprintf(stderr, "Error: latency: more than %d packets\n", FRAMES);
		return 1;
	}
	printf("{\"received\": %lu, \"backwards\": %lu, \"early\": %lu, \"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, "
	       "\"p999\": %.2f, \"max\": %.2f}\n",
	       seen.received, seen.backwards, histogram.early, quantile_us(&histogram, 0.5),
	       quantile_us(&histogram, 0.9), quantile_us(&histogram, 0.99), quantile_us(&histogram, 0.999),
	       (double)histogram.max / 1e3);
	return 0;
}
