/* SPDX-License-Identifier: MIT */
/*
 * A worker without a supervisor and without a network interface: the test plays the kernel that fills a capture ring
 * (a memfd of the same layout), and the receiver (a UDP socket on loopback).
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common.h"
#include "worker.h"

#define SLOTS  64u
#define GROUP  "239.1.1.1"
#define PORT   5000
#define WIDE   (8 << 20) /* bytes of a buffer that nothing fills */
#define NARROW 1

struct harness {
	int segment_fd, ring_fd, receiver, sender;
	int wire[2];                 /* what raw frames leave by, and where they arrive; -1: none do */
	int channel, worker_channel; /* ours, the worker's */
	int wake_fd, event_fd;
	struct mcr_segment *segment;
	struct mcr_ring_end commands;
	uint8_t *slots;
	uint64_t produced; /* frames written into the ring so far */
};

static int make_memory(const char *name, size_t size, void *mapped)
{
	int fd = memfd_create(name, 0);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	*(void **)mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(*(void **)mapped != MAP_FAILED);
	return fd;
}

static void harness_open(struct harness *h)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int big = WIDE;

	*h = (struct harness){ .channel = -1, .wire = { -1, -1 } };
	h->segment_fd = make_memory("segment", sizeof(*h->segment), &h->segment);
	h->segment->header.version = MCR_ABI_VERSION;
	h->segment->header.length = sizeof(*h->segment);
	h->segment->header.batch = 32;
	h->ring_fd = make_memory("ring", (size_t)SLOTS * SLOT_BYTES, &h->slots);
	h->receiver = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(bind(h->receiver, (struct sockaddr *)&any, sizeof(any)) == 0);
	setsockopt(h->receiver, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof(big));
	h->sender = socket(AF_INET, SOCK_DGRAM, 0);
	h->wake_fd = eventfd(0, EFD_NONBLOCK);
	h->event_fd = eventfd(0, EFD_NONBLOCK);
}

/*
 * From here on: raw frames to a group, over a socket that keeps their boundaries as a network interface does.
 * WIDE: as much as the kernel gives. NARROW: the least that the kernel allows, a few frames.
 */
static inline void send_raw(struct harness *h, int bytes)
{
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, h->wire) == 0);
	CHECK(setsockopt(h->wire[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)) == 0);
	if (bytes == WIDE)
		setsockopt(h->wire[0], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
}

static void command(struct harness *h, uint32_t type, const void *body, size_t size)
{
	CHECK(mcr_ring_push(&h->commands, type, body, size) == 0);
}

static void send_descriptor(int channel, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(head), &fd, sizeof(fd));
	CHECK(sendmsg(channel, &message, 0) == 1);
}

/* What produce() makes, by a capture. */
static struct mcr_flow flow_by(uint16_t capture)
{
	return mcr_flow_ipv4(capture, 0, 0, inet_addr(GROUP), htons(PORT));
}

/* Open the channel and the ring of commands to the next worker. */
static inline void tell_nothing(struct harness *h)
{
	int pair[2];

	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	h->channel = pair[0];
	h->worker_channel = pair[1];
	h->segment->rule_ring = (struct mcr_ring){ 0 };
	mcr_ring_open_producer(&h->commands, &h->segment->rule_ring, h->segment->rule_data, MCR_RULE_RING_BYTES);
}

/* What a supervisor tells a worker that has just started: one capture, one egress socket, one rule, go. */
static void tell_everything(struct harness *h, uint64_t generation)
{
	struct mcr_rec_capture capture = { .frame_size = SLOT_BYTES, .frame_count = SLOTS };
	struct mcr_rec_egress egress = { .egress = 3, .mtu = 1500 };
	struct {
		struct mcr_rec_rule head;
		struct mcr_rec_output output;
	} rule = { 0 };
	struct mcr_rec_generation last = { generation };
	struct sockaddr_in to;
	socklen_t size = sizeof(to);

	tell_nothing(h);
	send_descriptor(h->channel, h->ring_fd);
	send_descriptor(h->channel, h->sender);
	CHECK(getsockname(h->receiver, (struct sockaddr *)&to, &size) == 0);
	rule.head = (struct mcr_rec_rule){ .tag = 7, .rule = 5, .flow = flow_by(0), .output_count = 1 };
	rule.output = (struct mcr_rec_output){
		.tag = 7,
		.output = 9,
		.egress = 3,
		.address = to.sin_addr.s_addr,
		.port = to.sin_port,
		.max_train = 16,
	};
	command(h, MCR_REC_CAPTURE_PUT, &capture, sizeof(capture));
	command(h, MCR_REC_EGRESS_PUT, &egress, sizeof(egress));
	if (h->wire[0] >= 0) {
		struct mcr_rec_raw raw = { .egress = 3, .mtu = 1500 };

		send_descriptor(h->channel, h->wire[0]);
		command(h, MCR_REC_RAW_PUT, &raw, sizeof(raw));
		rule.output.source = inet_addr("198.18.0.1");
	}
	command(h, MCR_REC_RULE_PUT, &rule, sizeof(rule));
	command(h, MCR_REC_GENERATION, &last, sizeof(last));
}

static int run_worker(struct harness *h)
{
	return mcr_worker_run(dup(h->segment_fd), h->worker_channel, dup(h->wake_fd), dup(h->event_fd), -1, false);
}

static void *worker_thread(void *arg)
{
	return (void *)(intptr_t)run_worker(arg);
}

/* Be the kernel: put one frame with this sequence number into the ring. False: the ring is full. */
static bool produce(struct harness *h, uint64_t sequence)
{
	uint8_t *slot = h->slots + (h->produced % SLOTS) * SLOT_BYTES, *frame = slot + MAC_OFFSET;
	struct tpacket2_hdr *header = (struct tpacket2_hdr *)slot;

	if (mcr_load_acquire32(&header->tp_status) != TP_STATUS_KERNEL)
		return false;
	header->tp_mac = MAC_OFFSET;
	header->tp_net = MAC_OFFSET + ETHERNET;
	header->tp_len = header->tp_snaplen = put_headers(frame, 20, sizeof(sequence), 1, PORT);
	sum_ip_header(frame + ETHERNET, 20); /* UDP needs none */
	memcpy(frame + ETHERNET + 20 + 8, &sequence, sizeof(sequence));
	mcr_store_release32(&header->tp_status, TP_STATUS_USER);
	h->produced++;
	return true;
}

/* Once as much waits as the ring holds, a worker starts in a thread: its first batch is a whole one. Frames produced. */
static inline uint64_t start_full(struct harness *h, uint64_t packets, pthread_t *thread)
{
	uint64_t sent = 0;

	while (sent < packets && produce(h, sent))
		sent++;
	CHECK(pthread_create(thread, NULL, worker_thread, h) == 0);
	return sent;
}

/* One more frame, where there is room; else let the worker go on. Whether there was. */
static inline bool produce_or_yield(struct harness *h, uint64_t sequence)
{
	if (produce(h, sequence))
		return true;
	sched_yield();
	return false;
}

/* A worker in a thread sends what it has, and ends. */
static inline void stop_worker(struct harness *h, pthread_t thread)
{
	uint64_t one = 1;
	void *ret;

	command(h, MCR_REC_STOP, NULL, 0);
	CHECK(write(h->wake_fd, &one, sizeof(one)) == sizeof(one));
	CHECK(pthread_join(thread, &ret) == 0 && (intptr_t)ret == 0);
}

/* What the receiver has, every one and in order, from the `next` on. The one after. */
static inline uint64_t receive_in_order(struct harness *h, uint64_t next)
{
	uint64_t sequence;

	while (recv(h->receiver, &sequence, sizeof(sequence), MSG_DONTWAIT) == sizeof(sequence))
		CHECK(sequence == next++);
	return next;
}

/* The same until all have come: loopback may take its time. */
static inline uint64_t await_in_order(struct harness *h, uint64_t next, uint64_t packets)
{
	for (int i = 0; i < 5000 && (next = receive_in_order(h, next)) < packets; i++)
		poll(&(struct pollfd){ .fd = h->receiver, .events = POLLIN }, 1, 1);
	return next;
}

static inline void see(uint64_t sequence, uint8_t *seen, uint64_t limit)
{
	CHECK(sequence < limit);
	CHECK(seen[sequence] < 255);
	seen[sequence]++;
}

/* Be the network card: cut what arrived on the wire. */
static inline void receive_raw(struct harness *h, uint8_t *seen, uint64_t limit)
{
	struct {
		struct mcr_raw_header header;
		uint64_t sequences[MCR_TRAIN_MAX];
	} __attribute__((packed)) frame;
	ssize_t size;

	while ((size = recv(h->wire[1], &frame, sizeof(frame), MSG_DONTWAIT)) > 0) {
		uint64_t count = ((uint64_t)size - sizeof(frame.header)) / sizeof(uint64_t);

		CHECK(count && ntohs(frame.header.udp.len) == sizeof(frame.header.udp) + count * sizeof(uint64_t));
		CHECK(frame.header.offload.gso_size == (count > 1 ? sizeof(uint64_t) : 0));
		for (uint64_t i = 0; i < count; i++) {
			uint64_t sequence;

			memcpy(&sequence, (uint8_t *)frame.sequences + i * sizeof(sequence), sizeof(sequence));
			see(sequence, seen, limit);
		}
	}
}

/* Count what the receiver has, by sequence number. */
static inline void receive(struct harness *h, uint8_t *seen, uint64_t limit)
{
	uint64_t sequence;

	while (recv(h->receiver, &sequence, sizeof(sequence), MSG_DONTWAIT) == sizeof(sequence))
		see(sequence, seen, limit);
	if (h->wire[1] >= 0)
		receive_raw(h, seen, limit);
}

static inline void check_identities(const struct mcr_segment *segment, uint64_t produced)
{
	const struct mcr_totals *totals = &segment->totals;
	const struct mcr_output_counters *output = &segment->outputs[9];

	CHECK(totals->recv == produced);
	CHECK(totals->matched == produced);
	CHECK(totals->parse_err + totals->no_match + totals->buf_exhaust == 0);
	CHECK(totals->submitted == produced);
	CHECK(totals->sent + totals->errors == totals->submitted);
	CHECK(segment->captures[0].cursor == produced && segment->captures[0].matched == produced);
	CHECK(segment->rules[5].tag == 7 && segment->rules[5].matched == produced);
	CHECK(output->tag == 7 && output->submitted == produced && output->sent == totals->sent);
	CHECK(output->errors == totals->errors && output->in_doubt == totals->in_doubt);
	CHECK(output->bytes == totals->bytes && totals->bytes == 8 * totals->sent);
}

#endif
