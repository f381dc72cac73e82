// SPDX-License-Identifier: MIT
/* The simplest relay: a blocking recv, a send for each output. What most scripts and small tools do. */
#include <errno.h>
#include <sys/socket.h>

#include "peer.h"

int main(int argc, char **argv)
{
	static uint8_t datagram[65536];
	struct peer peer;
	int fd;

	peer_init(&peer, argc, argv);
	fd = peer_open_udp(&peer);
	peer_ready();
	for (;;) {
		ssize_t size = recv(fd, datagram, sizeof(datagram), 0);

		if (size < 0 && errno != EINTR)
			peer_die("recv");
		for (unsigned int i = 0; size >= 0 && i < peer.output_count; i++)
			send(peer.outputs[i].fd, datagram, (size_t)size, MSG_DONTWAIT);
	}
}
