/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the eBPF programs and those who use them have to agree on. */
#ifndef MCR_BPF_ABI_H
#define MCR_BPF_ABI_H

#include <stdint.h>

/*
 * Bytes that a clipped super-frame keeps, and one more for each datagram in it. Fewer than any headers have, so that each
 * is clipped; nobody reads them.
 */
#define MCR_BPF_CLIP 32u

/* What a rule takes; both addresses in network byte order. */
struct mcr_bpf_key {
	uint32_t group;
	uint16_t port;
	uint16_t capture; /* slot of the input interface */
};

#endif
