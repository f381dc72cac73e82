/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the eBPF programs and those who use them have to agree on. */
#ifndef MCR_BPF_ABI_H
#define MCR_BPF_ABI_H

/*
 * Bytes that a clipped super-frame keeps, and one more for each datagram in it. Fewer than any headers have, so that each
 * is clipped; nobody reads them.
 */
#define MCR_BPF_CLIP 32u

#endif
