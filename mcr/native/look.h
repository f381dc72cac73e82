/* SPDX-License-Identifier: MIT */
/*
 * Reads what comes to a packet socket during a look at the wire (mcr/tap/returns.py): who sends which payload, in the order
 * in which it came. A datagram wakes nobody: the socket's buffer holds what comes between two turns.
 */
#ifndef MCR_LOOK_H
#define MCR_LOOK_H

#include <stdbool.h>
#include <stdint.h>

#include "capture.h"

#define MCR_LOOK_MOST   65536u /* datagrams, or frames, of a look */
#define MCR_LOOK_ENOUGH 256u   /* of one reading */
#define MCR_LOOK_FRAMES 32     /* of one turn */
#define MCR_LOOK_ROOM   (MCR_LOOK_ENOUGH + MCR_LOOK_FRAMES * MCR_FRAME_PAYLOADS)

/* Who sends, and where to. Compared and hashed as a whole, so it has no padding, and what is not used is 0. */
struct mcr_way {
	uint32_t source[4]; /* as it lies in a header; of IPv4 the first word */
	uint8_t mac[8];     /* of the sender: the first six; 0: the link layer has none */
	uint32_t group[4];  /* like the source */
	uint16_t family;    /* MCR_FLOW_… */
	uint16_t port;      /* network byte order */
};

_Static_assert(sizeof(struct mcr_way) == 44, "no padding");

struct mcr_heard {
	uint64_t payload; /* a hash of it, and of where it goes */
	uint64_t way;     /* its number */
};

struct mcr_look_spec {
	int fd;        /* a packet socket with auxiliary data, offload headers and SO_RXQ_OVFL; it stays the caller's */
	uint32_t link; /* bytes of the link layer's header */
	uint32_t vlan; /* of the frames that are meant; 0: without a tag, or with one of a priority alone */
	uint64_t secret[2];
};

/* `heard` is what the last reading found. */
struct mcr_look {
	struct mcr_look_spec spec;
	uint32_t frames;    /* so far, whatever they are */
	uint32_t way_count; /* so far */
	uint32_t count;     /* of what was heard */
	bool lost;          /* a frame found no room, or a way did not: nothing of what was read is after that */
	bool behind;        /* the last reading has not emptied the socket */
	struct mcr_heard heard[MCR_LOOK_ROOM];
	struct mcr_way ways[MCR_LOOK_MOST];
	uint64_t flows[MCR_LOOK_MOST];       /* hashes of where they go */
	uint32_t buckets[2 * MCR_LOOK_MOST]; /* numbers of ways, from 1 on; 0: free */
	struct mcr_look_buffers *buffers;
};

/* NULL: no memory. */
struct mcr_look *mcr_look_open(const struct mcr_look_spec *spec);
void mcr_look_close(struct mcr_look *look);

/*
 * Read until something is lost, or enough has come, or so much time has passed. 0, or -errno. Touches nothing of Python's.
 */
int mcr_look_read(struct mcr_look *look, uint64_t ns);

/* Take one frame. Pure. Of what the relay can't take, nothing is heard. */
void mcr_look_take(struct mcr_look *look, const struct mcr_frame *frame);

#endif
