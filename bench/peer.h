/* SPDX-License-Identifier: MIT */
/* What the reference relays share: their command line and their sockets. How they move packets is all their own. */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PEER_MAX_OUTPUTS 64
#define PEER_FRAME_SIZE  2048

struct peer_output {
	struct sockaddr_in to;
	char interface[16];
	int fd;
};

/*
 * --in IF --group G --port P --out G:P:IF[,...] [--flows N] [--cpu C]: flow n goes from group G+n to the same number
 * of each output.
 */
struct peer {
	const char *interface;
	uint32_t group; /* the first, in host order */
	unsigned int port, flows;
	unsigned int output_count;
	struct peer_output outputs[PEER_MAX_OUTPUTS];
};

struct peer_packet {
	const uint8_t *payload;
	size_t size;
	unsigned int flow;
};

void peer_die(const char *what);

/* Read the command line, open the outputs (connected if there is one flow), pin the process. Ends it on error. */
void peer_init(struct peer *peer, int argc, char **argv);

/* An AF_PACKET socket that lets in UDP packets of the port only, and nothing this machine sent. */
int peer_open_capture(const struct peer *peer);

/* An ordinary UDP socket, bound to the group and joined on the interface. */
int peer_open_udp(const struct peer *peer);

/* Say "ready" on stdout. */
void peer_ready(void);

/* Find the payload of a captured frame and its flow; false: not one of ours. */
bool peer_parse(const struct peer *peer, const uint8_t *frame, size_t size, struct peer_packet *packet);

/* Where an output sends a flow. */
struct sockaddr_in peer_destination(const struct peer_output *output, unsigned int flow);

#endif
