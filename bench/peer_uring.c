// SPDX-License-Identifier: MIT
/*
 * A relay with io_uring used packet by packet: 32 single-shot receives wait on one AF_PACKET socket, and each packet
 * is one send for each output. Its buffer goes back to receiving when all of them are done.
 *
 * MCR_BENCH_RING=plain makes the ring without flags; otherwise it has the newest flags that the kernel knows.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"

#define RECEIVES 32
#define ENTRIES  1024
#define SEND     (UINT64_C(1) << 32)

struct buffer {
	uint8_t frame[PEER_FRAME_SIZE];
	unsigned int sends; /* under way */
};

struct relay {
	struct peer peer;
	struct io_uring ring;
	struct buffer buffers[RECEIVES];
	int fd;
};

static void open_ring(struct io_uring *ring)
{
	const char *choice = getenv("MCR_BENCH_RING");
	unsigned int flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	int ret = -EINVAL;

	if (!choice || strcmp(choice, "plain"))
		ret = io_uring_queue_init(ENTRIES, ring, flags);
	if (ret == -EINVAL)
		ret = io_uring_queue_init(ENTRIES, ring, 0);
	if (ret) {
		errno = -ret;
		peer_die("io_uring_setup");
	}
}

static struct io_uring_sqe *next_sqe(struct relay *relay)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&relay->ring)))
		io_uring_submit(&relay->ring);
	return sqe;
}

static void arm(struct relay *relay, unsigned int index)
{
	struct io_uring_sqe *sqe = next_sqe(relay);

	io_uring_prep_recv(sqe, relay->fd, relay->buffers[index].frame, PEER_FRAME_SIZE, 0);
	io_uring_sqe_set_data64(sqe, index);
}

static void forward(struct relay *relay, unsigned int index, size_t size)
{
	struct buffer *buffer = &relay->buffers[index];
	struct peer_packet packet;

	if (!peer_parse(&relay->peer, buffer->frame, size, &packet)) {
		arm(relay, index);
		return;
	}
	for (unsigned int i = 0; i < relay->peer.output_count; i++) {
		struct io_uring_sqe *sqe = next_sqe(relay);

		io_uring_prep_send(sqe, relay->peer.outputs[i].fd, packet.payload, packet.size, 0);
		io_uring_sqe_set_data64(sqe, SEND | index);
		buffer->sends++;
	}
}

static void on_cqe(struct relay *relay, const struct io_uring_cqe *cqe)
{
	unsigned int index = (unsigned int)cqe->user_data;

	if (cqe->user_data & SEND) {
		if (!--relay->buffers[index].sends)
			arm(relay, index);
	} else if (cqe->res >= 0) {
		forward(relay, index, (size_t)cqe->res);
	} else {
		arm(relay, index);
	}
}

int main(int argc, char **argv)
{
	static struct relay relay;

	peer_init(&relay.peer, argc, argv);
	if (relay.peer.flows != 1) {
		errno = EINVAL;
		peer_die("--flows");
	}
	relay.fd = peer_open_capture(&relay.peer);
	open_ring(&relay.ring);
	for (unsigned int i = 0; i < RECEIVES; i++)
		arm(&relay, i);
	peer_ready();
	for (;;) {
		struct io_uring_cqe *cqe;
		unsigned int head, seen = 0;
		int ret = io_uring_submit_and_wait(&relay.ring, 1);

		if (ret < 0 && ret != -EINTR) {
			errno = -ret;
			peer_die("io_uring_enter");
		}
		io_uring_for_each_cqe(&relay.ring, head, cqe) {
			on_cqe(&relay, cqe);
			seen++;
		}
		io_uring_cq_advance(&relay.ring, seen);
	}
}
