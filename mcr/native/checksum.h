/* SPDX-License-Identifier: MIT */
/* The Internet checksum (RFC 1071). Pure. */
#ifndef MCR_CHECKSUM_H
#define MCR_CHECKSUM_H

#include <stdbool.h>
#include <stdint.h>

/* Whether the checksum of an IPv4 header of `size` bytes is right. */
bool mcr_checksum_ip(const uint8_t *header, uint32_t size);

/*
 * Whether that of a UDP datagram is, or it has none (0). `size`: header and payload; addresses in network byte order.
 */
bool mcr_checksum_udp(const uint8_t *udp, uint32_t size, uint32_t source, uint32_t destination);

/*
 * The sum of a UDP header and its payload with the pseudo-header of IPv4, as its checksum is to have it. The header's own
 * checksum is 0; addresses in network byte order.
 */
uint16_t mcr_checksum_of_udp(const uint8_t *header, const uint8_t *payload, uint32_t size, uint32_t source,
			     uint32_t destination);

/* Whether that of one in IPv6 is, which has to have one (RFC 8200, 8.1). */
bool mcr_checksum_udp6(const uint8_t *udp, uint32_t size, const uint32_t *source, const uint32_t *destination);

#endif
