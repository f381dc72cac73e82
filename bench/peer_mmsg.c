// SPDX-License-Identifier: MIT
/* The best a relay can do with ordinary calls: up to 64 packets a recvmmsg, one sendmmsg of them for each output. */
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "peer.h"

#define BATCH 64

struct batch {
	uint8_t frames[BATCH][PEER_FRAME_SIZE];
	struct iovec received[BATCH], payloads[BATCH];
	struct mmsghdr in[BATCH], out[BATCH];
	struct sockaddr_in to[BATCH];
	unsigned int flows[BATCH];
};

static void init(struct batch *batch)
{
	for (unsigned int i = 0; i < BATCH; i++) {
		batch->received[i] = (struct iovec){ batch->frames[i], PEER_FRAME_SIZE };
		batch->in[i].msg_hdr = (struct msghdr){ .msg_iov = &batch->received[i], .msg_iovlen = 1 };
		batch->out[i].msg_hdr = (struct msghdr){ .msg_iov = &batch->payloads[i], .msg_iovlen = 1 };
	}
}

static unsigned int parse(const struct peer *peer, struct batch *batch, int received)
{
	unsigned int count = 0;

	for (int i = 0; i < received; i++) {
		struct peer_packet packet;

		if (!peer_parse(peer, batch->frames[i], batch->in[i].msg_len, &packet))
			continue;
		batch->payloads[count] = (struct iovec){ (void *)packet.payload, packet.size };
		batch->flows[count++] = packet.flow;
	}
	return count;
}

static void forward(const struct peer *peer, const struct peer_output *output, struct batch *batch, unsigned int count)
{
	unsigned int done = 0;

	for (unsigned int i = 0; peer->flows > 1 && i < count; i++) {
		batch->to[i] = peer_destination(output, batch->flows[i]);
		batch->out[i].msg_hdr.msg_name = &batch->to[i];
		batch->out[i].msg_hdr.msg_namelen = sizeof(batch->to[i]);
	}
	while (done < count) {
		int sent = sendmmsg(output->fd, batch->out + done, count - done, MSG_DONTWAIT);

		done += sent > 0 ? (unsigned int)sent : 1; /* the one that failed is lost */
	}
}

int main(int argc, char **argv)
{
	static struct batch batch;
	struct peer peer;
	int fd;

	peer_init(&peer, argc, argv);
	fd = peer_open_capture(&peer);
	init(&batch);
	peer_ready();
	for (;;) {
		int received = recvmmsg(fd, batch.in, BATCH, MSG_WAITFORONE, NULL);
		unsigned int count;

		if (received < 0 && errno != EINTR)
			peer_die("recvmmsg");
		count = parse(&peer, &batch, received);
		for (unsigned int i = 0; i < peer.output_count; i++)
			forward(&peer, &peer.outputs[i], &batch, count);
	}
}
