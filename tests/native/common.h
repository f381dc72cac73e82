/* SPDX-License-Identifier: MIT */
/* What every program here has: claims that end it, chance that a seed repeats, and frames. */
#ifndef COMMON_H
#define COMMON_H

#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                            \
	do {                                                                                                        \
		if (!(condition)) {                                                                                 \
			fprintf(stderr, "%s:%d: not true: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
			abort();                                                                                    \
		}                                                                                                   \
	} while (0)

#define ETHERNET   14u
#define SLOT_BYTES 2048u /* of a capture ring's slot */
#define MAC_OFFSET 82u   /* of the frame in it */

static uint64_t chance;

/* Each seed is another sequence. */
static inline void seed(uint64_t number)
{
	chance = number * 2 + 1; /* never 0 */
}

static inline uint32_t rnd(uint32_t below)
{
	chance ^= chance << 13; /* xorshift64 */
	chance ^= chance >> 7;
	chance ^= chance << 17;
	return (uint32_t)(chance >> 16) % below;
}

static inline void store16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* The sum of RFC 1071, not yet inverted; mostly four words at a time, as a sanitizer looks at each access. */
static inline uint32_t sum16(uint32_t sum, const uint8_t *data, uint32_t size)
{
	uint32_t i = 0;

	for (; i + 8 <= size; i += 8) {
		uint64_t eight;

		memcpy(&eight, data + i, sizeof(eight));
		eight = be64toh(eight);
		sum += (uint32_t)(eight >> 48) + (eight >> 32 & 0xffff) + (eight >> 16 & 0xffff) + (eight & 0xffff);
	}
	for (; i < size; i++)
		sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static inline void sum_ip_header(uint8_t *ip, uint32_t size)
{
	store16(ip + 10, 0);
	store16(ip + 10, ~sum16(0, ip, size));
}

/*
 * The headers of a sound frame: Ethernet, IPv4 of `header` bytes, UDP with so much payload, which is left to the caller.
 * From a stranger to 239.1.1.`group`; without checksums. Bytes up to the end of the payload.
 */
static inline uint32_t put_headers(uint8_t *frame, uint32_t header, uint32_t payload, uint8_t group, uint32_t port)
{
	uint8_t *ip = frame + ETHERNET, *udp = ip + header;

	memset(frame, 0, ETHERNET + header + 8);
	memcpy(frame, "\1\0\x5e\1\1\1", 6);
	frame[12] = 8;
	ip[0] = (uint8_t)(0x40 | header / 4);
	store16(ip + 2, header + 8 + payload);
	ip[8] = 1;
	ip[9] = 17;
	memcpy(ip + 12, "\xc6\x12\0\1", 4);
	memcpy(ip + 16, "\xef\1\1", 3);
	ip[19] = group;
	store16(udp + 2, port);
	store16(udp + 4, 8 + payload);
	return ETHERNET + header + 8 + payload;
}

/* An extension header of 8 bytes, which are padding, or of more, with an option that nobody has to know. */
static inline uint32_t put_extension(uint8_t *at, uint8_t next, uint32_t units)
{
	memset(at, 0, 8 + 8 * units);
	at[0] = next;
	at[1] = (uint8_t)units;
	if (units) {
		at[2] = 0x1e; /* of an experiment (RFC 4727) */
		at[3] = (uint8_t)(4 + 8 * units);
	}
	return 8 + 8 * units;
}

/*
 * The same by IPv6, from 2001:db8::1 to ff15::`group`, with so many extension headers: hop-by-hop options, then options for
 * the destination.
 */
static inline uint32_t put_headers6(uint8_t *frame, uint32_t extensions, uint32_t payload, uint8_t group, uint32_t port)
{
	uint8_t *ip = frame + ETHERNET, *udp = ip + 40;

	memset(frame, 0, ETHERNET + 40);
	memcpy(frame, "\x33\x33\0\0\0\1", 6);
	store16(frame + 12, 0x86dd);
	ip[0] = 0x60;
	ip[6] = extensions ? 0 : 17;
	ip[7] = 1;
	memcpy(ip + 8, "\x20\1\xd\xb8", 4);
	ip[23] = 1;
	memcpy(ip + 24, "\xff\x15", 2);
	ip[39] = group;
	for (uint32_t i = 0; i < extensions; i++)
		udp += put_extension(udp, i + 1 < extensions ? 60 : 17, rnd(3));
	memset(udp, 0, 8);
	store16(udp + 2, port);
	store16(udp + 4, 8 + payload);
	store16(udp + 6, 0xbeef);
	store16(ip + 4, (uint32_t)(udp - ip) - 40 + 8 + payload);
	return (uint32_t)(udp - frame) + 8 + payload;
}

#endif
