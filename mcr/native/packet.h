/* SPDX-License-Identifier: MIT */
/* A frame's flow key and payload. Pure: reads nothing but the bytes it is given. */
#ifndef MCR_PACKET_H
#define MCR_PACKET_H

#include <stdint.h>

struct mcr_packet {
	/* Addresses, in network byte order. */
	union {
		uint32_t source;
		uint32_t source6[4];
	};
	union {
		uint32_t group; /* destination */
		uint32_t group6[4];
	};
	uint16_t family;      /* MCR_FLOW_… */
	uint16_t port;        /* destination port, network byte order */
	uint16_t source_port; /* likewise */
	uint8_t ttl;
	uint8_t service;       /* DSCP, and two bits for ECN (RFC 2474, RFC 3168) */
	uint32_t payload;      /* offset of the UDP payload from the start of the frame */
	uint32_t payload_size; /* bytes; 0 is a valid datagram */
};

/*
 * Parse the IPv4 or IPv6 UDP datagram whose IP header starts at `network` in a frame of `size` captured bytes.
 * 0, or
 *   -EPROTONOSUPPORT  neither IP nor UDP
 *   -EMSGSIZE         the datagram is longer than what was captured
 *   -EOPNOTSUPP       a fragment, with a whole IP header: of `packet` ports and payload are not known
 *   -EBADMSG          malformed: a length that contradicts another; in IPv6 also what IP drops: a routing header, an
 *                     authentication header without a key, an option that has to be known, padding that is too long or not
 *                     0; and too many extension headers, or a first fragment without all of them
 * The payload's size is the UDP header's (RFC 768), so Ethernet padding is not part of it. Addresses and checksums are
 * not judged here: see sanity.h.
 */
int mcr_packet_parse(const uint8_t *frame, uint32_t size, uint32_t network, struct mcr_packet *packet);

#endif
