// SPDX-License-Identifier: MIT
#include "oversize.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "offload.h"

#define VNET ((uint32_t)sizeof(struct virtio_net_hdr)) /* what the kernel puts before a frame (PACKET_VNET_HDR) */

/* Whether the first copy in the queue is this frame's: as long, and beginning like it. */
static bool is_copy_of(const uint8_t *head, ssize_t length, const struct mcr_frame *frame)
{
	return length == (ssize_t)(VNET + frame->wire_size) && !memcmp(head + VNET, frame->data, frame->size);
}

int mcr_oversize_fetch(struct mcr_oversize *oversize, const struct mcr_capture *capture, struct mcr_frame *frame)
{
	uint32_t whole = VNET + frame->wire_size;
	uint8_t *buffer;
	ssize_t length;

	if (oversize->taken == MCR_BATCH_OVERSIZE || frame->wire_size > MCR_OVERSIZE_BYTES - VNET)
		return -ENOBUFS;
	buffer = oversize->buffers[oversize->taken];
	length = recv(capture->fd, buffer, VNET + frame->size, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	if (!is_copy_of(buffer, length, frame))
		return -ENOENT;
	if (recv(capture->fd, buffer, whole, MSG_DONTWAIT) != (ssize_t)whole)
		return -ENOENT;
	oversize->taken++;
	frame->data = buffer + VNET;
	frame->size = frame->wire_size;
	return 0;
}

void mcr_oversize_flush(const struct mcr_capture *capture)
{
	uint8_t head[VNET];

	while (recv(capture->fd, head, sizeof(head), MSG_DONTWAIT | MSG_TRUNC) > 0)
		;
}
