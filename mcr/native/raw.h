/* SPDX-License-Identifier: MIT */
/*
 * A datagram, or a train of them, as a raw frame: it begins with the headers that IP and Ethernet would have given it.
 * Pure.
 *
 * To a group this costs less than a UDP socket: no route and no neighbour is looked up, no firewall is asked. So it is used
 * only where none of these would change anything (mcr/net/raw.py).
 */
#ifndef MCR_RAW_H
#define MCR_RAW_H

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>

#include "offload.h"

/* The sender: port and MAC are the same for all frames by one output interface; the rest is the output's. */
struct mcr_raw_source {
	uint32_t address; /* network byte order */
	uint16_t port;    /* network byte order */
	uint8_t mac[ETH_ALEN];
	uint8_t ttl;
	uint8_t service;
};

/* What comes before the payload in a send on an AF_PACKET socket with PACKET_VNET_HDR, see packet(7). */
struct mcr_raw_header {
	struct virtio_net_hdr offload; /* has the kernel, or the card, cut the train and do the checksums */
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

/* The same with room for a VLAN tag, which stands in front of the type. Without one only `plain` is sent. */
struct mcr_tagged_header {
	uint8_t room[4];
	struct mcr_raw_header plain;
} __attribute__((packed));

/* Tag it (IEEE 802.1Q). */
void mcr_raw_tag(struct mcr_tagged_header *header, uint16_t vlan);

/*
 * The headers of `count` datagrams to a group or a broadcast address, `size` bytes of payload in all, `segment` bytes
 * in each but the last. As a UDP socket sends them: don't fragment.
 */
struct mcr_raw_header mcr_raw_header(const struct mcr_raw_source *from, const struct sockaddr_in *to, uint32_t count,
				     uint32_t segment, uint32_t size);

#endif
