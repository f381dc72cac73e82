/* SPDX-License-Identifier: MIT */
/*
 * The batch in hand: everything that is known of it, from the frames taken out of a capture ring to what became of each
 * datagram. Rules and sockets are other tables; a batch refers to them by slot.
 *
 * Each step reads what the steps before it have written: gather.c the frames, plan.c the sends, message.c and send.c the
 * messages and outcomes. commit.c counts what is here then, and nothing of it lasts.
 */
#ifndef MCR_BATCH_H
#define MCR_BATCH_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "oversize.h"
#include "raw.h"
#include "rules.h"
#include "shm_abi.h"

#define MCR_TRAIN_MAX   64   /* datagrams; UDP_MAX_SEGMENTS of kernels before 6.9 */
#define MCR_MESSAGES    256  /* sends handed over together */
#define MCR_MESSAGE_IOV 2048 /* pieces of all raw frames among them */

/* What an output may keep of the headers that a datagram came with. */
struct mcr_marks {
	uint8_t ttl;
	uint8_t service;
};

/* Where a datagram came from, in network byte order. */
struct mcr_origin {
	uint32_t address[4]; /* of IPv4 the first */
	uint16_t port;
};

/* A matched datagram. */
struct mcr_payload {
	const uint8_t *data;
	uint16_t size;
	uint16_t next; /* the next payload of its rule; meaningless for the last */
	struct mcr_marks marks;
	uint16_t flow; /* slot of its flow */
};

_Static_assert(2 * MCR_MAX_RULES <= UINT16_MAX + 1, "flow holds any slot");

_Static_assert(MCR_BATCH_PAYLOADS <= UINT16_MAX, "next holds the number of any payload");

/* What a rule has in the batch. */
struct mcr_share {
	uint32_t rule;
	uint32_t payload_count;
	uint32_t first_payload;
	uint32_t last_payload;
	uint32_t first_outcome; /* of the rule's first output; those of its other outputs follow in their order */
};

/* What became of a share at one output. */
struct mcr_outcome {
	uint32_t sent;
	uint32_t errors;
	uint32_t in_doubt; /* part of errors */
	uint32_t last_error;
	uint64_t bytes;
};

/* One send: a payload, or a train of them, to one output. */
struct mcr_send {
	struct iovec *payloads;
	uint32_t count;
	uint32_t output;
	uint32_t outcome; /* where it is to be noted */
	bool raw;         /* as a raw frame, by the AF_PACKET socket */
	bool expired;     /* its TTL has come to 0: it does not leave */
	uint8_t ttl;      /* 0: the usual one */
	uint8_t service;
	uint16_t vlan;                   /* of its frame; 0: no tag */
	uint16_t groups, ports;          /* how far behind the output's first ones its own are */
	const struct mcr_origin *origin; /* where its datagrams came from, if the output keeps some of it, or NULL */
};

/* Where planning stands: within a train for one output, within a share, within the batch. */
struct mcr_plan {
	uint32_t next_share;
	struct iovec *iov; /* the train's first payload */
	uint32_t left;     /* payloads of the share from there on */
	uint32_t train;    /* payloads of the train */
	uint32_t output;   /* that gets it now, MCR_NO_OUTPUT: all have it */
	uint32_t outcome;  /* of that output */
	uint32_t done;     /* payloads of the train that this output has been sent */
};

/* What a UDP socket is told of one message: how to cut it (UDP_SEGMENT), IP_TTL, IP_TOS and IP_PKTINFO, or those of IPv6. */
union mcr_message_options {
	char bytes[CMSG_SPACE(sizeof(uint16_t)) + 2 * CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct in6_pktinfo))];
	struct cmsghdr align;
};

/* Sends that are handed to the kernel together, by their number: their messages, and which of them have ended. */
struct mcr_handful {
	uint32_t count;
	uint32_t iov_count;
	struct mcr_send sends[MCR_MESSAGES];
	struct msghdr messages[MCR_MESSAGES];
	struct mcr_tagged_header headers[MCR_MESSAGES];
	union mcr_message_options options[MCR_MESSAGES];
	union mcr_sent_to destinations[MCR_MESSAGES]; /* of those that don't go to their output's first one */
	struct udphdr udp[MCR_MESSAGES];              /* of those that a raw socket gets */
	struct iovec iov[MCR_MESSAGE_IOV];
	uint32_t ways[MCR_MESSAGES]; /* slot of the egress that each leaves by */
	uint32_t next[MCR_MESSAGES]; /* send by the same way; MCR_MESSAGES: there is none */
	bool ended[MCR_MESSAGES];
	uint16_t last[MCR_MAX_EGRESS]; /* newest send by a way, see chain() in send.c */
};

struct mcr_batch {
	uint32_t capture; /* slot of the capture that it came by */
	uint32_t slots;   /* frames taken from its ring */
	bool in_doubt; /* a dead worker had them in hand: whether they left is not known, and they don't leave again */

	struct mcr_totals add; /* to the counters */
	uint32_t share_count;
	uint32_t payload_count;
	uint32_t outcome_count;
	uint32_t iov_count;
	struct mcr_share shares[MCR_BATCH_SLOTS];
	struct mcr_payload payloads[MCR_BATCH_PAYLOADS];
	struct mcr_origin origins[MCR_BATCH_PAYLOADS]; /* of each, where its rule's outputs keep some of it */
	struct mcr_outcome outcomes[MCR_BATCH_OUTPUTS];

	struct mcr_plan plan;
	struct iovec iov[MCR_BATCH_PAYLOADS]; /* the payloads, those of a share one after the other */
	uint16_t which[MCR_BATCH_PAYLOADS];   /* number of each, where its rule's outputs keep something */
	struct mcr_handful handful;

	uint16_t share_of[MCR_MAX_RULES]; /* number of a rule's share, see find_share() in batch.c */
	struct mcr_oversize oversize;
};

/* Begin a batch of a capture's frames. */
void mcr_batch_begin(struct mcr_batch *batch, uint32_t capture, bool in_doubt);

/* Whether it can take one more frame, whatever is in it. */
bool mcr_batch_has_room(const struct mcr_batch *batch);

/* Add a payload, from `origin`, for all outputs of a rule: that of its flow. */
void mcr_batch_add(struct mcr_batch *batch, const struct mcr_rules *rules, struct mcr_payload payload,
		   const struct mcr_origin *origin);

/* The payloads of a batch in doubt are not sent: note that as what became of each. */
void mcr_batch_give_up(struct mcr_batch *batch, const struct mcr_rules *rules);

#endif
