/* SPDX-License-Identifier: MIT */
/*
 * The sends of one batch. Pure: plans, and sends nothing.
 *
 * Payloads of one rule that wait together leave in one send for each output, as a train that the kernel cuts into
 * datagrams (UDP_SEGMENT, udp(7)), gathered from where they were received. Order within a rule is kept. All payloads
 * of a train have the size of the first, the last may be shorter.
 */
#ifndef MCR_PLAN_H
#define MCR_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "raw.h"
#include "rules.h"
#include "shm_abi.h"

#define MCR_TRAIN_MAX 64 /* datagrams; UDP_MAX_SEGMENTS of kernels before 6.9 */

/*
 * A way to send, as a worker holds it: an output interface, or a neighbour on one. Those have sockets of their own, since
 * what waits for a neighbour's answer fills the buffer of the socket that it left by. While nothing fills it, several of
 * them send by a common one, which takes what goes to all of them in one system call.
 */
struct mcr_egress {
	bool held;                    /* the slot is in use */
	bool raw;                     /* raw frames may leave */
	int fd;                       /* UDP socket */
	int raw_fd;                   /* AF_PACKET socket, if raw frames may leave */
	uint32_t max_segment;         /* payload bytes that fit its MTU */
	uint32_t common;              /* slot of the egress in whose place this one stands; its own: there is none */
	uint32_t full;                /* epoch in which its UDP socket was full, where it is a common one */
	struct mcr_raw_source source; /* of raw frames; the address is the output's */
	uint32_t last_send;           /* by it, of those that are handed over */
	uint64_t handful;             /* to which that belongs */
};

/* A matched packet. */
struct mcr_payload {
	const uint8_t *data;
	uint32_t size;
	uint32_t next; /* the next payload of its rule; meaningless for the last */
};

/* One send: a payload, or a train of them, to one output. */
struct mcr_send {
	struct iovec *payloads;
	uint32_t count;
	uint32_t output;
	bool raw; /* as a raw frame, by the AF_PACKET socket */
};

struct mcr_batch {
	uint32_t payload_count;
	uint32_t iov_count;
	struct mcr_payload payloads[MCR_BATCH_PAYLOADS];
	struct iovec iov[MCR_BATCH_PAYLOADS];
};

/* Where planning stands: within a train for one output, within a rule's payloads, within the batch's rules. */
struct mcr_plan {
	const uint32_t *rules; /* that have payloads in the batch */
	uint32_t rule_count;
	uint32_t next_rule;
	struct iovec *iov; /* the train's first payload */
	uint32_t left;     /* payloads of the rule from there on */
	uint32_t train;    /* payloads of the train */
	uint32_t output;   /* that gets it now, MCR_NO_OUTPUT: all have it */
	uint32_t done;     /* payloads of the train that this output has been sent */
};

void mcr_batch_clear(struct mcr_batch *batch);

/* Add a payload for all outputs of a rule. At most MCR_BATCH_PAYLOADS of them. */
void mcr_batch_add(struct mcr_batch *batch, struct mcr_rule *rule, const uint8_t *payload, uint32_t size);

/* Start to plan the sends of these rules. */
void mcr_plan_start(struct mcr_plan *plan, const uint32_t *rules, uint32_t count);

/* The next send, in order. false: there are no more. */
bool mcr_plan_next(struct mcr_plan *plan, struct mcr_batch *batch, struct mcr_rules *rules,
		   const struct mcr_egress *egress, struct mcr_send *send);

/* Whether this result of a train means that its output can't have trains now (and says nothing about its payloads). */
bool mcr_train_refused(const struct mcr_send *send, int result);

/* Whether this result of a raw frame is for IP to judge: it may cut the datagram, or know another way, or say why not. */
bool mcr_raw_refused(const struct mcr_send *send, int result);

#endif
