// SPDX-License-Identifier: MIT
/*
 * The frame parser and the check of what it accepts, fed with frames in exactly sized buffers, so that a sanitizer sees
 * every byte read too far. Another reading of the same bytes says what has to come out. An input is:
 *
 *	flags  1: make the checksums right, 2: vouched for, 4: to another host, 8: by the loopback, 16: `network` counts,
 *	       32: a look at the wire hears it, too
 *	network  offset of the IP header; else it is 14; in a look: bytes of each datagram of a super-frame, if not 0
 *	the frame
 */
#include "guided.h"

#include <arpa/inet.h>
#include <stdbool.h>

#include "look.h"
#include "sanity.h"

enum { REPAIRED = 1, VOUCHED = 2, ELSEWHERE = 4, LOOPED = 8, ANY_OFFSET = 16, LOOKED_AT = 32 };

static uint32_t load16(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

/* What a datagram is that is whole, and as its RFCs have it; `length`: bytes of UDP, header included, 0: there is none. */
struct reading {
	uint32_t header, length;
	bool ipv6;
};

/* RFC 768, in so many bytes behind the headers of IP. */
static uint32_t udp_length(const uint8_t *udp, uint32_t left)
{
	uint32_t length = left < 8 ? 0 : load16(udp + 4);

	return length >= 8 && length <= left ? length : 0;
}

/* RFC 791. */
static struct reading read4(const uint8_t *ip, uint32_t left)
{
	uint32_t header = (ip[0] & 15u) * 4, total;

	if (left < 20 || ip[9] != 17)
		return (struct reading){ 0 };
	total = load16(ip + 2);
	if (header < 20 || total > left || total < header || load16(ip + 6) & 0x3fff)
		return (struct reading){ 0 };
	return (struct reading){ header, udp_length(ip + header, total - header), false };
}

/*
 * RFC 8200, 4.2: those that nobody has to know, as the first two bits of their types say, and that fill their header. Linux
 * takes at most seven bytes of padding one after the other, and those that are 0.
 */
static bool are_options_fine(const uint8_t *header, uint32_t size)
{
	uint32_t at = 2, last = 1, next; /* last: the last byte that is no padding */

	for (; at < size; at = next) {
		if (header[at] >= 0x40)
			return false;
		if (header[at] && at + 1 == size)
			return false;
		next = header[at] ? at + 2u + header[at + 1] : at + 1;
		if (next > size)
			return false;
		for (uint32_t i = at + 2; i < next && header[at] == 1; i++)
			if (header[i])
				return false;
		if (header[at] > 1)
			last = next - 1;
		else if (next - 1 > last + 7)
			return false;
	}
	return true;
}

/*
 * RFC 8200: four extension headers at most, with fine options, those for each hop first, none of them for routing or IPsec, and
 * no fragment.
 */
static struct reading read6(const uint8_t *ip, uint32_t left)
{
	uint32_t total, at = 40, size;
	uint8_t next;

	if (left < 40 || 40 + load16(ip + 4) > left)
		return (struct reading){ 0 };
	total = 40 + load16(ip + 4);
	next = ip[6];
	for (int i = 0; next != 17; i++) {
		if (i == 4 || (next == 0 && i) || (next != 0 && next != 60 && next != 44) || at + 4 > total)
			return (struct reading){ 0 };
		size = next == 44 ? 8 : 8u * (ip[at + 1] + 1);
		if (at + size > total || (next == 44 && load16(ip + at + 2) & 0xfff9))
			return (struct reading){ 0 };
		if (next != 44 && !are_options_fine(ip + at, size))
			return (struct reading){ 0 };
		next = ip[at];
		at += size;
	}
	return (struct reading){ at, udp_length(ip + at, total - at), true };
}

static struct reading read_datagram(const uint8_t *ip, uint32_t left)
{
	if (!left || (ip[0] >> 4 != 4 && ip[0] >> 4 != 6))
		return (struct reading){ 0 };
	return (ip[0] >> 4 == 6 ? read6 : read4)(ip, left);
}

static void repair(uint8_t *ip, struct reading reading)
{
	uint8_t *udp = ip + reading.header;
	uint32_t sum;

	if (!reading.ipv6)
		sum_ip_header(ip, reading.header);
	store16(udp + 6, 0);
	sum = reading.ipv6 ? sum16(17 + reading.length, ip + 8, 32) : sum16(17 + reading.length, ip + 12, 8);
	sum = sum16(sum, udp, reading.length);
	store16(udp + 6, sum == 0xffff ? 0xffff : ~sum);
}

static void check_sound(const uint8_t *frame, const struct mcr_packet *packet, uint32_t network, struct reading reading)
{
	const uint8_t *ip = frame + network, *udp = ip + reading.header;

	CHECK(packet->payload == udp + 8 - frame && packet->payload_size == reading.length - 8);
	CHECK(ntohs(packet->port) == load16(udp + 2));
	CHECK((packet->family == MCR_FLOW_IPV6) == reading.ipv6);
	if (reading.ipv6) {
		CHECK(!memcmp(packet->source6, ip + 8, 16) && !memcmp(packet->group6, ip + 24, 16));
		CHECK(packet->ttl == ip[7] && packet->service == (uint8_t)(ip[0] << 4 | ip[1] >> 4));
		return;
	}
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

/* A look at the wire hears each datagram of the frame, and where it goes. */
static void check_look(const struct mcr_frame *frame, const struct mcr_packet *packet)
{
	static const struct mcr_look_spec spec = { .fd = -1, .link = ETHERNET, .secret = { 1, 2 } };
	static struct mcr_look *look;
	uint32_t count = packet ? 1 : 0;

	if (!look || look->way_count == MCR_LOOK_MOST) {
		if (look)
			mcr_look_close(look);
		look = mcr_look_open(&spec);
		CHECK(look);
	}
	if (packet && frame->segment && packet->payload_size)
		count = (packet->payload_size + frame->segment - 1) / frame->segment;
	look->count = 0;
	mcr_look_take(look, frame);
	CHECK(!look->lost && look->count == (count <= MCR_FRAME_PAYLOADS ? count : 0));
	for (uint32_t i = 0; i < look->count; i++) {
		const struct mcr_way *way = &look->ways[look->heard[i].way];

		CHECK(look->heard[i].way < look->way_count);
		CHECK(way->port == packet->port && way->family == packet->family && way->group[0] == packet->group);
	}
}

static void check(uint8_t *bytes, uint32_t size, uint8_t flags, uint32_t network, uint32_t segment)
{
	struct reading reading = network <= size ? read_datagram(bytes + network, size - network)
						 : (struct reading){ 0 };
	struct mcr_packet packet;
	int ret;

	if (reading.length && flags & REPAIRED)
		repair(bytes + network, reading);
	ret = mcr_packet_parse(bytes, size, network, &packet);
	CHECK(!ret == !!reading.length);
	if (flags & LOOKED_AT)
		check_look(&(struct mcr_frame){ .data = bytes, .size = size, .network = network, .segment = segment },
			   ret ? NULL : &packet);
	if (ret) {
		CHECK(ret == -EBADMSG || ret == -EMSGSIZE || ret == -EOPNOTSUPP || ret == -EPROTONOSUPPORT);
		return;
	}
	check_sound(bytes, &packet, network, reading);
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
	check(frame, left, data[0], data[0] & ANY_OFFSET ? data[1] : ETHERNET, data[1]);
	free(frame);
	return 0;
}
