// SPDX-License-Identifier: MIT
#include "capture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bpf/abi.h"
#include "offload.h"
#include "own.h"
#include "ring.h"

#define VLAN_ID 0x0fff /* in a tag's control information */

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
static void read_offload(struct mcr_frame *frame)
{
	struct virtio_net_hdr offload;

	memcpy(&offload, frame->data - sizeof(offload), sizeof(offload));
	frame->segment = offload.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? offload.gso_size : 0;
}

/*
 * A card that has checked the checksum says so, and so does a sender on this machine that left it to a card that was
 * never reached. The parts of a super-frame get theirs when it is cut; what merged them has checked those they had.
 */
static bool is_vouched(uint32_t status, const struct mcr_frame *frame)
{
	return status & (TP_STATUS_CSUM_VALID | TP_STATUS_CSUMNOTREADY) || frame->segment;
}

/* The kernel tells what it knows of the link layer in a sockaddr_ll behind the slot's header (packet(7)). */
static void read_link(const struct tpacket2_hdr *header, struct mcr_frame *frame)
{
	const struct sockaddr_ll *link = (const struct sockaddr_ll *)(header + 1);

	frame->loopback = link->sll_hatype == ARPHRD_LOOPBACK;
	frame->ipv6 = link->sll_protocol == htons(ETH_P_IPV6);
	frame->mac = link->sll_halen == MCR_MAC_BYTES ? mcr_own_mac(link->sll_addr) : 0;
	/* A frame to a group's MAC is no other host's: suppression of local delivery marked it so, on an interface below. */
	frame->elsewhere = link->sll_pkttype == PACKET_OTHERHOST && !(frame->size && frame->data[0] & 1);
}

/* The kernel has taken the outermost tag out (packet(7)). One of VLAN 0 bears but a priority. */
static void read_tag(const struct tpacket2_hdr *header, uint32_t status, struct mcr_frame *frame)
{
	bool service = status & TP_STATUS_VLAN_TPID_VALID && header->tp_vlan_tpid != ETH_P_8021Q;
	uint16_t protocol = 0;

	frame->vlan = status & TP_STATUS_VLAN_VALID ? header->tp_vlan_tci & VLAN_ID : 0;
	if (!frame->uncut && frame->network >= ETH_HLEN && frame->network <= frame->size)
		memcpy(&protocol, frame->data + frame->network - sizeof(protocol), sizeof(protocol));
	frame->tagged_again = (frame->vlan && service) || protocol == htons(ETH_P_8021Q) ||
			      protocol == htons(ETH_P_8021AD);
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
	uint32_t status = mcr_load_acquire32(&header->tp_status), mac, room;

	if (!(status & TP_STATUS_USER))
		return false;
	/* The offsets come from the kernel; they are clipped all the same, for the price of two compares. */
	mac = header->tp_mac >= TPACKET2_HDRLEN && header->tp_mac < capture->frame_size ? header->tp_mac
											: capture->frame_size;
	room = capture->frame_size - mac;
	frame->data = (const uint8_t *)header + mac;
	frame->size = header->tp_snaplen < room ? header->tp_snaplen : room;
	frame->wire_size = header->tp_len;
	frame->network = (uint32_t)header->tp_net - header->tp_mac;
	frame->segment = 0;
	if (capture->offloads)
		read_offload(frame);
	frame->uncut = capture->offloads ? 0 : uncut_datagrams(header, room);
	frame->put_together = false;
	frame->vouched = is_vouched(status, frame);
	read_tag(header, status, frame);
	read_link(header, frame);
	return true;
}

void mcr_capture_mark(const struct mcr_capture *capture, uint32_t count)
{
	for (uint32_t i = count; i > 0; i--)
		mcr_store_relaxed32(&slot(capture, capture->cursor - i)->tp_snaplen, DONE);
}

void mcr_capture_release(const struct mcr_capture *capture, uint32_t count)
{
	for (uint32_t i = count; i > 0; i--) {
		struct tpacket2_hdr *header = slot(capture, capture->cursor - i);

		/* The kernel never touches a slot that is ours: with both true, nobody else can have this one. */
		if (mcr_load_acquire32(&header->tp_status) & TP_STATUS_USER &&
		    mcr_load_relaxed32(&header->tp_snaplen) == DONE)
			mcr_store_release32(&header->tp_status, TP_STATUS_KERNEL);
	}
}
