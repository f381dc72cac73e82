// SPDX-License-Identifier: MIT
/*
 * The frame parser and the check of what it accepts, fed with frames in exactly sized buffers, so that a sanitizer sees
 * every byte read too far. Another reading of the same bytes says what has to come out. An input is:
 *
 *	flags  1: make the checksums right, 2: vouched for, 4: to another host, 8: by the loopback, 16: `network` counts
 *	network  offset of the IP header; else it is 14
 *	the frame
 */
#include "guided.h"

#include <arpa/inet.h>

#include "sanity.h"

enum { REPAIRED = 1, VOUCHED = 2, ELSEWHERE = 4, LOOPED = 8, ANY_OFFSET = 16 };

static uint32_t load16(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

/* Bytes of UDP, header included, of a datagram that is as RFC 791 and RFC 768 have it, and whole; 0: it is not. */
static uint32_t datagram(const uint8_t *ip, uint32_t left)
{
	uint32_t header, total, length;

	if (left < 20 || ip[0] >> 4 != 4 || ip[9] != 17)
		return 0;
	header = (ip[0] & 15u) * 4;
	total = load16(ip + 2);
	if (header < 20 || total > left || total < header + 8 || load16(ip + 6) & 0x3fff)
		return 0;
	length = load16(ip + header + 4);
	return length >= 8 && length <= total - header ? length : 0;
}

static void repair(uint8_t *ip, uint32_t length)
{
	uint32_t header = (ip[0] & 15u) * 4, sum;
	uint8_t *udp = ip + header;

	sum_ip_header(ip, header);
	store16(udp + 6, 0);
	sum = sum16(17 + length, ip + 12, 8);
	sum = sum16(sum, udp, length);
	store16(udp + 6, sum == 0xffff ? 0xffff : ~sum);
}

static void check_sound(const uint8_t *frame, const struct mcr_packet *packet, uint32_t network, uint32_t length)
{
	const uint8_t *ip = frame + network, *udp = ip + (ip[0] & 15u) * 4;

	CHECK(packet->payload == udp + 8 - frame && packet->payload_size == length - 8);
	CHECK(ntohs(packet->port) == load16(udp + 2));
	CHECK(!memcmp(&packet->source, ip + 12, 4) && !memcmp(&packet->group, ip + 16, 4));
	CHECK(packet->ttl == ip[8] && packet->service == ip[1]);
}

static void check_sanity(const struct mcr_frame *frame, const struct mcr_packet *packet, bool repaired)
{
	static const struct mcr_own nobody;
	enum mcr_cause cause = mcr_sanity_check(frame, packet, &nobody);

	CHECK(cause == MCR_CAUSE_NONE || cause == MCR_CAUSE_CHECKSUM || cause == MCR_CAUSE_SOURCE ||
	      cause == MCR_CAUSE_OTHER_HOST);
	CHECK(!repaired || cause != MCR_CAUSE_CHECKSUM);
	CHECK(!frame->elsewhere || cause == MCR_CAUSE_OTHER_HOST);
}

static void check(uint8_t *bytes, uint32_t size, uint8_t flags, uint32_t network)
{
	uint32_t length = network <= size ? datagram(bytes + network, size - network) : 0;
	struct mcr_packet packet;
	int ret;

	if (length && flags & REPAIRED)
		repair(bytes + network, length);
	ret = mcr_packet_parse(bytes, size, network, &packet);
	CHECK(!ret == !!length);
	if (ret) {
		CHECK(ret == -EBADMSG || ret == -EMSGSIZE || ret == -EOPNOTSUPP || ret == -EPROTONOSUPPORT);
		return;
	}
	check_sound(bytes, &packet, network, length);
	check_sanity(&(struct mcr_frame){ .data = bytes,
					  .size = size,
					  .network = network,
					  .mac = 2,
					  .vouched = flags & VOUCHED,
					  .elsewhere = flags & ELSEWHERE,
					  .loopback = flags & LOOPED },
		     &packet, flags & REPAIRED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t left = (uint32_t)size - 2;
	uint8_t *frame;

	if (size < 2)
		return 0;
	frame = malloc(left ? left : 1);
	CHECK(frame);
	memcpy(frame, data + 2, left);
	check(frame, left, data[0], data[0] & ANY_OFFSET ? data[1] : ETHERNET);
	free(frame);
	return 0;
}
