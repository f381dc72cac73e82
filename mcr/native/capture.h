/* SPDX-License-Identifier: MIT */
/*
 * One TPACKET_V2 receive ring: frames the kernel captured, read where they lie.
 *
 * The kernel fills slots in order and hands each over at once; the worker gives them back in order. Ring and unread
 * frames belong to the socket, which the supervisor keeps, so they outlive a worker (packet(7), and the kernel's
 * Documentation/networking/packet_mmap.rst).
 */
#ifndef MCR_CAPTURE_H
#define MCR_CAPTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm_abi.h"

struct mcr_frame {
	const uint8_t *data; /* from the link-layer header on */
	uint32_t size;       /* bytes captured */
	uint32_t wire_size;  /* bytes the frame had */
	uint32_t network;    /* offset of the network header */
	uint32_t segment;    /* payload bytes of each datagram in a super-frame; 0: the frame is one datagram */
	uint32_t uncut;      /* datagrams in a super-frame, if the kernel doesn't say how to cut it; 0 otherwise */
	uint64_t mac;        /* of the sender, as in own.h; 0: none */
	bool vouched;        /* the card or the sending kernel answers for the UDP checksum */
	uint16_t vlan;       /* id of its tag; 0: none */
	bool tagged_again;   /* it bears a second tag, or one that is not 802.1Q's */
	bool elsewhere;      /* to another host's MAC */
	bool loopback;       /* it has never left this machine */
	bool ipv6;           /* by its link layer's header */
	bool put_together;   /* it is a datagram of fragments, whose headers were judged when they came */
};

struct mcr_capture {
	int fd; /* AF_PACKET socket, owned; -1: slot not in use */
	uint8_t *slots;
	uint32_t frame_size;
	uint32_t frame_count;
	bool offloads;       /* the kernel says before each frame how to cut it */
	uint64_t cursor;     /* packets taken so far */
	uint32_t serial;     /* of the capture: tells it from a later one in the same slot */
	uint32_t in_doubt;   /* so many of the next packets a dead worker had in hand: count, don't send */
	bool polled;         /* a poll request is under way */
	bool poll_stays;     /* and goes on after it has reported something */
	bool leaving;        /* read what waits, then detach */
	bool woken;          /* a poll said that there is something to read */
	bool polled_in_vain; /* so did the one before, but there was nothing */
};

/* Map the ring of `fd`, which the capture then owns. 0, -EINVAL for an impossible geometry, or mmap's -errno. */
int mcr_capture_attach(struct mcr_capture *capture, int fd, const struct mcr_rec_capture *geometry, uint64_t cursor);

void mcr_capture_detach(struct mcr_capture *capture);

/* The frame `ahead` slots after the cursor, if the kernel has handed it over. */
bool mcr_capture_frame(const struct mcr_capture *capture, uint32_t ahead, struct mcr_frame *frame);

/* Mark the `count` slots before the cursor as done with, so that a successor can tell them from refilled ones. */
void mcr_capture_mark(const struct mcr_capture *capture, uint32_t count);

/* Give back those of the `count` slots before the cursor that bear the mark. */
void mcr_capture_release(const struct mcr_capture *capture, uint32_t count);

#endif
