/* SPDX-License-Identifier: MIT */
/*
 * Frames that are longer than a slot of the capture ring: super-frames, which offloads make of many datagrams.
 *
 * The kernel clips them in the ring and queues a whole copy on the socket (PACKET_COPY_THRESH, packet(7)), in the order
 * of the slots. A copy is taken out when its slot is read. A predecessor may have died in between, so a copy is used
 * only if it starts with the slot's bytes.
 */
#ifndef MCR_OVERSIZE_H
#define MCR_OVERSIZE_H

#include "capture.h"

#define MCR_OVERSIZE_BYTES (65536u + 128u) /* the largest IP datagram with what the link layer and the kernel prepend */

/* Buffers for one batch. */
struct mcr_oversize {
	uint32_t taken;
	uint8_t buffers[MCR_BATCH_OVERSIZE][MCR_OVERSIZE_BYTES];
};

/*
 * Put the whole of a clipped frame in the place of what its slot has of it. 0, -ENOBUFS when all buffers are taken, or
 * -ENOENT when the kernel had no room for a copy, or a predecessor took it. The frame stays clipped then.
 */
int mcr_oversize_fetch(struct mcr_oversize *oversize, const struct mcr_capture *capture, struct mcr_frame *frame);

/* Throw away copies whose slots have been given back: they would keep the socket readable for ever. */
void mcr_oversize_flush(const struct mcr_capture *capture);

#endif
