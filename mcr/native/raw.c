// SPDX-License-Identifier: MIT
#include "raw.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

#define CHECKSUM_START (sizeof(struct ethhdr) + sizeof(struct iphdr))

static uint32_t halves(uint32_t address)
{
	return (address & 0xffff) + (address >> 16);
}

/* RFC 1071; any byte order will do as long as it is one. */
static uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)(sum + (sum >> 16));
}

/* A group's hardware address (RFC 1112): its last 23 bits. All that is no group is a broadcast address. */
static struct ethhdr ethernet_header(const struct mcr_raw_source *from, uint32_t group)
{
	uint32_t bits = ntohl(group) & 0x7fffff;
	struct ethhdr header = {
		.h_dest = { 0x01, 0x00, 0x5e, (uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits },
		.h_proto = htons(ETH_P_IP),
	};

	for (uint32_t i = 0; i < ETH_ALEN; i++) {
		header.h_source[i] = from->mac[i];
		if (!IN_MULTICAST(ntohl(group)))
			header.h_dest[i] = 0xff;
	}
	return header;
}

static struct iphdr ip_header(const struct mcr_raw_source *from, uint32_t group, uint16_t length)
{
	struct iphdr header = {
		.version = 4,
		.ihl = sizeof(struct iphdr) / 4,
		.tos = from->service,
		.tot_len = htons(length),
		.frag_off = htons(IP_DF),
		.ttl = from->ttl,
		.protocol = IPPROTO_UDP,
		.saddr = from->address,
		.daddr = group,
	};
	uint32_t chosen = htons((uint16_t)(0x4500 | from->service)) + htons(IP_DF) +
			  htons((uint16_t)(from->ttl << 8 | IPPROTO_UDP));

	header.check = (uint16_t)~fold(chosen + header.tot_len + halves(from->address) + halves(group));
	return header;
}

/* The checksum is begun, and left to be done: of the pseudo-header only (RFC 768), as the kernel expects it. */
static struct udphdr udp_header(const struct mcr_raw_source *from, const struct sockaddr_in *to, uint16_t length)
{
	struct udphdr header = { .source = from->port, .dest = to->sin_port, .len = htons(length) };
	uint32_t addresses = halves(from->address) + halves(to->sin_addr.s_addr);

	header.check = fold(addresses + htons(IPPROTO_UDP) + header.len);
	return header;
}

struct mcr_raw_header mcr_raw_header(const struct mcr_raw_source *from, const struct sockaddr_in *to, uint32_t count,
				     uint32_t segment, uint32_t size)
{
	uint16_t length = (uint16_t)(sizeof(struct udphdr) + size);
	struct mcr_raw_header header = {
		.offload = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
			     .csum_start = CHECKSUM_START,
			     .csum_offset = offsetof(struct udphdr, check) },
		.ethernet = ethernet_header(from, to->sin_addr.s_addr),
		.ip = ip_header(from, to->sin_addr.s_addr, (uint16_t)(sizeof(struct iphdr) + length)),
		.udp = udp_header(from, to, length),
	};

	if (count > 1) {
		header.offload.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
		header.offload.gso_size = (uint16_t)segment;
		header.offload.hdr_len = CHECKSUM_START + sizeof(struct udphdr);
	}
	return header;
}

void mcr_raw_tag(struct mcr_tagged_header *header, uint16_t vlan)
{
	const uint16_t tag[2] = { htons(ETH_P_8021Q), htons(vlan) };
	size_t before = offsetof(struct mcr_raw_header, ethernet.h_proto);

	header->plain.offload.csum_start = (uint16_t)(header->plain.offload.csum_start + sizeof(tag));
	if (header->plain.offload.hdr_len)
		header->plain.offload.hdr_len = (uint16_t)(header->plain.offload.hdr_len + sizeof(tag));
	memmove(header, &header->plain, before);
	memcpy((uint8_t *)header + before, tag, sizeof(tag));
}
