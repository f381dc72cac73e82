// SPDX-License-Identifier: MIT
// Sums are of words as they lie in memory: which byte order that is does not matter as long as it is one (RFC 1071).
#include "checksum.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#define UDP_HEADER 8u
#define STEP       32u /* bytes: four words, and two sums that do not wait for each other */

/* One's complement addition: what overflows comes in again at the other end. */
static uint64_t add(uint64_t sum, uint64_t word)
{
	sum += word;
	return sum + (sum < word);
}

static uint64_t load64(const uint8_t *p)
{
	uint64_t word;

	memcpy(&word, p, sizeof(word));
	return word;
}

/* Fewer than eight bytes. An odd one is followed by a zero. */
static uint64_t add_rest(uint64_t sum, const uint8_t *data, uint32_t size)
{
	uint32_t word = 0;
	uint16_t half = 0, last = 0;

	if (size & 4) {
		memcpy(&word, data, sizeof(word));
		data += sizeof(word);
	}
	if (size & 2) {
		memcpy(&half, data, sizeof(half));
		data += sizeof(half);
	}
	if (size & 1)
		memcpy(&last, data, 1);
	return add(sum, (uint64_t)word + half + last);
}

static uint64_t add_bytes(uint64_t sum, const uint8_t *data, uint32_t size)
{
	uint64_t other = 0, carry = 0, other_carry = 0, word;

	for (; size >= STEP; data += STEP, size -= STEP) {
		sum += word = load64(data);
		carry += sum < word;
		other += word = load64(data + 8);
		other_carry += other < word;
		sum += word = load64(data + 16);
		carry += sum < word;
		other += word = load64(data + 24);
		other_carry += other < word;
	}
	sum = add(add(sum, other), carry + other_carry);
	for (; size >= sizeof(word); data += sizeof(word), size -= (uint32_t)sizeof(word))
		sum = add(sum, load64(data));
	return add_rest(sum, data, size);
}

static uint16_t fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

bool mcr_checksum_ip(const uint8_t *header, uint32_t size)
{
	return fold(add_bytes(0, header, size)) == 0xffff;
}

bool mcr_checksum_udp(const uint8_t *udp, uint32_t size, uint32_t source, uint32_t destination)
{
	uint64_t pseudo = (uint64_t)source + destination + htons(IPPROTO_UDP) + htons((uint16_t)size);

	if (!udp[6] && !udp[7])
		return true;
	return fold(add_bytes(pseudo, udp, size)) == 0xffff;
}

uint16_t mcr_checksum_of_udp(const uint8_t *header, const uint8_t *payload, uint32_t size, uint32_t source,
			     uint32_t destination)
{
	uint64_t sum = (uint64_t)source + destination + htons(IPPROTO_UDP) + htons((uint16_t)(UDP_HEADER + size));
	uint16_t checksum;

	sum = add_bytes(add_bytes(sum, header, UDP_HEADER), payload, size);
	checksum = (uint16_t)~fold(sum);
	return checksum ? checksum : 0xffff; /* 0 would be none (RFC 768) */
}

bool mcr_checksum_udp6(const uint8_t *udp, uint32_t size, const uint32_t *source, const uint32_t *destination)
{
	uint64_t pseudo = (uint64_t)htons(IPPROTO_UDP) + htonl(size);

	for (uint32_t i = 0; i < 4; i++)
		pseudo += (uint64_t)source[i] + destination[i];
	return (udp[6] || udp[7]) && fold(add_bytes(pseudo, udp, size)) == 0xffff;
}
