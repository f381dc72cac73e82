/* SPDX-License-Identifier: MIT */
/* The sockets that a worker sends by, and what the kernel has lately refused to take. They outlast a batch. */
#ifndef MCR_EGRESS_H
#define MCR_EGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "raw.h"
#include "shm_abi.h"

/*
 * A way to send, as a worker holds it: an output interface, or a neighbour on one. Those have sockets of their own, since
 * what waits for a neighbour's answer fills the buffer of the socket that it left by. While nothing fills it, several of
 * them send by a common one, which takes what goes to all of them in one system call.
 */
struct mcr_egress {
	bool held;                    /* the slot is in use */
	bool raw;                     /* raw frames may leave */
	bool tagged_only;             /* but only those with the tag of a VLAN */
	int fd;                       /* UDP socket; where outputs keep where datagrams came from, raw (message.c) */
	int raw_fd;                   /* AF_PACKET socket, if raw frames may leave */
	uint32_t max_segment;         /* payload bytes that fit its MTU */
	uint32_t common;              /* slot of the egress in whose place this one stands; its own: there is none */
	uint32_t full;                /* epoch in which its UDP socket was full, where it is a common one */
	struct mcr_raw_source source; /* of raw frames; the address is the output's */
};

/* In which epoch something was refused; 0: it has not been. */
struct mcr_output_refusals {
	uint32_t raw;   /* a raw frame to this output */
	uint32_t train; /* a train to it */
};

/* What was refused in one epoch is tried again in the next. */
struct mcr_refusals {
	uint32_t epoch; /* about a second each, from 1 on */
	struct mcr_output_refusals outputs[MCR_MAX_OUTPUTS];
};

#endif
