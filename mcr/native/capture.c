// SPDX-License-Identifier: MIT
#include "capture.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bpf.h"
#include "ring.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* <linux/virtio_net.h> from kernel 6.2 on */
#endif

#define DONE 0 /* tp_snaplen of a slot that was read; the kernel never stores 0 for a UDP frame */

static struct tpacket2_hdr *slot(const struct mcr_capture *capture, uint64_t position)
{
	size_t index = (size_t)(position & (capture->frame_count - 1));

	return (struct tpacket2_hdr *)(capture->slots + index * capture->frame_size);
}

static bool is_power_of_two(uint32_t number)
{
	return number && !(number & (number - 1));
}

int mcr_capture_attach(struct mcr_capture *capture, int fd, const struct mcr_rec_capture *geometry, uint64_t cursor)
{
	void *slots;

	if (!is_power_of_two(geometry->frame_size) || !is_power_of_two(geometry->frame_count))
		return -EINVAL;
	slots = mmap(NULL, (size_t)geometry->frame_size * geometry->frame_count, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		     0);
	if (slots == MAP_FAILED)
		return -errno;
	*capture = (struct mcr_capture){
		.fd = fd,
		.slots = slots,
		.frame_size = geometry->frame_size,
		.frame_count = geometry->frame_count,
		.offloads = geometry->offloads,
		.cursor = cursor,
		.serial = geometry->serial,
	};
	return 0;
}

void mcr_capture_detach(struct mcr_capture *capture)
{
	munmap(capture->slots, (size_t)capture->frame_size * capture->frame_count);
	close(capture->fd);
	*capture = (struct mcr_capture){ .fd = -1 };
}

/* What the kernel says of offloads stands before the frame (PACKET_VNET_HDR). */
static uint32_t segment_size(const uint8_t *frame)
{
	struct virtio_net_hdr offload;

	memcpy(&offload, frame - sizeof(offload), sizeof(offload));
	return offload.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? offload.gso_size : 0;
}

/*
 * Without that word of the kernel a super-frame shows by what is missing of it: the filter has clipped it to some bytes
 * and one more for each datagram, or the ring to a slot.
 */
static uint32_t uncut_datagrams(const struct tpacket2_hdr *header, uint32_t room)
{
	if (header->tp_snaplen == header->tp_len)
		return 0;
	return header->tp_snaplen < room && header->tp_snaplen > MCR_BPF_CLIP ? header->tp_snaplen - MCR_BPF_CLIP : 1;
}

bool mcr_capture_frame(const struct mcr_capture *capture, uint32_t ahead, struct mcr_frame *frame)
{
	const struct tpacket2_hdr *header = slot(capture, capture->cursor + ahead);
	uint32_t room;

	if (!(mcr_load_acquire32(&header->tp_status) & TP_STATUS_USER))
		return false;
	/* The offsets come from the kernel; they are clipped all the same, for the price of two compares. */
	room = header->tp_mac < capture->frame_size ? capture->frame_size - header->tp_mac : 0;
	frame->data = (const uint8_t *)header + header->tp_mac;
	frame->size = header->tp_snaplen < room ? header->tp_snaplen : room;
	frame->wire_size = header->tp_len;
	frame->network = (uint32_t)header->tp_net - header->tp_mac;
	frame->segment = capture->offloads ? segment_size(frame->data) : 0;
	frame->uncut = capture->offloads ? 0 : uncut_datagrams(header, room);
	return true;
}

void mcr_capture_mark(const struct mcr_capture *capture, uint32_t count)
{
	for (uint32_t i = count; i > 0; i--)
		__atomic_store_n(&slot(capture, capture->cursor - i)->tp_snaplen, DONE, __ATOMIC_RELAXED);
}

void mcr_capture_release(const struct mcr_capture *capture, uint32_t count)
{
	for (uint32_t i = count; i > 0; i--) {
		struct tpacket2_hdr *header = slot(capture, capture->cursor - i);

		/* The kernel never touches a slot that is ours: with both true, nobody else can have this one. */
		if (mcr_load_acquire32(&header->tp_status) & TP_STATUS_USER &&
		    __atomic_load_n(&header->tp_snaplen, __ATOMIC_RELAXED) == DONE)
			mcr_store_release32(&header->tp_status, TP_STATUS_KERNEL);
	}
}
