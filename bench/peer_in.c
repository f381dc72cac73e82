// SPDX-License-Identifier: MIT
/*
 * Ways to receive, each before the same way to send: what waits together leaves as one GSO batch. The end of the name
 * that the program is called by says which way:
 *
 * mmsg       recvmmsg, blocking
 * multishot  one io_uring receive that stays, into a ring of 256 buffers
 * v2         TPACKET_V2 ring, an io_uring poll before sleeping
 * v3         TPACKET_V3 ring, likewise; a block is handed over when it is full, or after a millisecond
 */
#include <errno.h>
#include <liburing.h>
#include <linux/if_packet.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "peer.h"

#define BATCH       32
#define BUFFERS     256 /* a power of two: all of them stay in the cache */
#define GROUP       0
#define RING_BYTES  (4u << 20)
#define BLOCK_BYTES (64u << 10)
#define RETIRE_MS   1

struct relay {
	struct peer peer;
	int fd;
	struct iovec parts[BATCH];
	unsigned int count;
	uint8_t *memory;
	unsigned int next; /* slot or block */
	struct io_uring ring;
	struct io_uring_buf_ring *buffers;
};

static void die(const char *what, int error)
{
	errno = error;
	peer_die(what);
}

static void send_gso_batch(struct relay *relay)
{
	union {
		char bytes[CMSG_SPACE(sizeof(uint16_t))];
		struct cmsghdr align;
	} control = { 0 };
	struct msghdr message = { .msg_iov = relay->parts, .msg_iovlen = relay->count };
	uint16_t size;

	if (!relay->count)
		return;
	if (relay->count > 1) {
		size = (uint16_t)relay->parts[0].iov_len;
		control.align.cmsg_len = CMSG_LEN(sizeof(size));
		control.align.cmsg_level = SOL_UDP;
		control.align.cmsg_type = UDP_SEGMENT;
		memcpy(CMSG_DATA(&control.align), &size, sizeof(size));
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
	}
	for (unsigned int i = 0; i < relay->peer.output_count; i++)
		sendmsg(relay->peer.outputs[i].fd, &message, MSG_DONTWAIT);
	relay->count = 0;
}

static void take(struct relay *relay, const uint8_t *frame, size_t size)
{
	struct peer_packet packet;

	if (!peer_parse(&relay->peer, frame, size, &packet))
		return;
	relay->parts[relay->count++] = (struct iovec){ (void *)packet.payload, packet.size };
}

static void open_ring(struct relay *relay)
{
	int ret = io_uring_queue_init(BUFFERS, &relay->ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);

	if (ret)
		die("io_uring_setup", -ret);
}

static void enter(struct relay *relay)
{
	int ret = io_uring_submit_and_wait(&relay->ring, 1);

	if (ret < 0 && ret != -EINTR)
		die("io_uring_enter", -ret);
}

/* ---- recvmmsg */

static void run_mmsg(struct relay *relay)
{
	static uint8_t frames[BATCH][PEER_FRAME_SIZE];
	static struct iovec iov[BATCH];
	static struct mmsghdr messages[BATCH];

	for (int i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){ frames[i], sizeof(frames[i]) };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &iov[i], .msg_iovlen = 1 };
	}
	for (;;) {
		int got = recvmmsg(relay->fd, messages, BATCH, MSG_WAITFORONE, NULL);

		for (int i = 0; i < got; i++)
			take(relay, frames[i], messages[i].msg_len);
		send_gso_batch(relay);
	}
}

/* ---- multishot receive */

static void give_buffer(struct relay *relay, unsigned int id, int offset)
{
	io_uring_buf_ring_add(relay->buffers, relay->memory + id * PEER_FRAME_SIZE, PEER_FRAME_SIZE, (unsigned short)id,
			      io_uring_buf_ring_mask(BUFFERS), offset);
}

static void open_buffers(struct relay *relay)
{
	size_t ring_bytes = BUFFERS * sizeof(struct io_uring_buf);
	struct io_uring_buf_reg reg = { .ring_entries = BUFFERS, .bgid = GROUP };
	int ret;

	relay->memory = mmap(NULL, BUFFERS * PEER_FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			     0);
	relay->buffers = mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (relay->memory == MAP_FAILED || relay->buffers == MAP_FAILED)
		peer_die("mmap");
	reg.ring_addr = (uintptr_t)relay->buffers;
	ret = io_uring_register_buf_ring(&relay->ring, &reg, 0);
	if (ret)
		die("IORING_REGISTER_PBUF_RING", -ret);
	io_uring_buf_ring_init(relay->buffers);
	for (unsigned int id = 0; id < BUFFERS; id++)
		give_buffer(relay, id, (int)id);
	io_uring_buf_ring_advance(relay->buffers, BUFFERS);
}

static void arm_receive(struct relay *relay)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&relay->ring);

	io_uring_prep_recv_multishot(sqe, relay->fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
}

/* Take up to a batch of completions, send what they brought, give their buffers back. */
static void drain_completions(struct relay *relay)
{
	unsigned int ids[BATCH], given = 0, head, seen = 0;
	struct io_uring_cqe *cqe;
	bool ended = false;

	io_uring_for_each_cqe(&relay->ring, head, cqe) {
		seen++;
		ended |= !(cqe->flags & IORING_CQE_F_MORE);
		if (cqe->res < 0)
			continue;
		ids[given] = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
		take(relay, relay->memory + ids[given] * PEER_FRAME_SIZE, (size_t)cqe->res);
		if (++given == BATCH)
			break;
	}
	io_uring_cq_advance(&relay->ring, seen);
	send_gso_batch(relay);
	for (unsigned int i = 0; i < given; i++)
		give_buffer(relay, ids[i], (int)i);
	io_uring_buf_ring_advance(relay->buffers, (int)given);
	if (ended)
		arm_receive(relay);
}

static void run_multishot(struct relay *relay)
{
	open_ring(relay);
	open_buffers(relay);
	arm_receive(relay);
	for (;;) {
		if (!io_uring_cq_ready(&relay->ring))
			enter(relay);
		drain_completions(relay);
	}
}

/* ---- mapped rings */

static void set_ring(struct relay *relay, int version, const void *request, socklen_t size)
{
	if (setsockopt(relay->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) ||
	    setsockopt(relay->fd, SOL_PACKET, PACKET_RX_RING, request, size))
		peer_die("PACKET_RX_RING");
	relay->memory = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, relay->fd, 0);
	if (relay->memory == MAP_FAILED)
		peer_die("mmap");
	open_ring(relay);
}

static void sleep_until_readable(struct relay *relay)
{
	io_uring_prep_poll_add(io_uring_get_sqe(&relay->ring), relay->fd, POLLIN);
	enter(relay);
	io_uring_cq_advance(&relay->ring, io_uring_cq_ready(&relay->ring));
}

static struct tpacket2_hdr *slot(const struct relay *relay, unsigned int index)
{
	return (struct tpacket2_hdr *)(relay->memory +
				       (size_t)(index % (RING_BYTES / PEER_FRAME_SIZE)) * PEER_FRAME_SIZE);
}

static void run_v2(struct relay *relay)
{
	struct tpacket_req request = { BLOCK_BYTES, RING_BYTES / BLOCK_BYTES, PEER_FRAME_SIZE,
				       RING_BYTES / PEER_FRAME_SIZE };

	set_ring(relay, TPACKET_V2, &request, sizeof(request));
	for (;;) {
		unsigned int taken = 0;

		while (taken < BATCH) {
			struct tpacket2_hdr *header = slot(relay, relay->next + taken);

			if (!(__atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
				break;
			take(relay, (uint8_t *)header + header->tp_mac, header->tp_snaplen);
			taken++;
		}
		send_gso_batch(relay);
		for (; taken; taken--)
			__atomic_store_n(&slot(relay, relay->next++)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
		if (!(__atomic_load_n(&slot(relay, relay->next)->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
			sleep_until_readable(relay);
	}
}

static void walk_block(struct relay *relay, const struct tpacket_block_desc *block)
{
	const uint8_t *at = (const uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;

	for (uint32_t i = 0; i < block->hdr.bh1.num_pkts; i++) {
		const struct tpacket3_hdr *header = (const struct tpacket3_hdr *)at;

		take(relay, at + header->tp_mac, header->tp_snaplen);
		if (relay->count == BATCH)
			send_gso_batch(relay);
		at += header->tp_next_offset;
	}
	send_gso_batch(relay);
}

static void run_v3(struct relay *relay)
{
	struct tpacket_req3 request = { .tp_block_size = BLOCK_BYTES,
					.tp_block_nr = RING_BYTES / BLOCK_BYTES,
					.tp_frame_size = PEER_FRAME_SIZE,
					.tp_frame_nr = RING_BYTES / PEER_FRAME_SIZE,
					.tp_retire_blk_tov = RETIRE_MS };

	set_ring(relay, TPACKET_V3, &request, sizeof(request));
	for (;;) {
		struct tpacket_block_desc *block = (void *)(relay->memory + (size_t)relay->next * BLOCK_BYTES);

		while (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
			sleep_until_readable(relay);
		walk_block(relay, block);
		__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
		relay->next = (relay->next + 1) % (RING_BYTES / BLOCK_BYTES);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(struct relay *relay);
	} ways[] = { { "mmsg", run_mmsg }, { "multishot", run_multishot }, { "v2", run_v2 }, { "v3", run_v3 } };
	static struct relay relay;
	const char *way = strrchr(argv[0], '_');

	peer_init(&relay.peer, argc, argv);
	relay.fd = peer_open_capture(&relay.peer);
	peer_ready();
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (way && !strcmp(ways[i].name, way + 1))
			ways[i].run(&relay);
	return 1;
}
