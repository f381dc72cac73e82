/* SPDX-License-Identifier: MIT */
/*
 * Finds what the IP stack would drop among the datagrams that rules take. A datagram leaves with new headers and
 * checksums, so a receiver could no longer see that it was broken. Pure.
 */
#ifndef MCR_SANITY_H
#define MCR_SANITY_H

#include "capture.h"
#include "own.h"
#include "packet.h"

/* Why it may not be relayed; MCR_CAUSE_NONE: it may. `packet` is what the parser made of `frame`. */
enum mcr_cause mcr_sanity_check(const struct mcr_frame *frame, const struct mcr_packet *packet,
				const struct mcr_own *own);

/* The part of it that is known of a fragment, by its IP header. Of `packet` family and addresses matter. */
enum mcr_cause mcr_sanity_check_header(const struct mcr_frame *frame, const struct mcr_packet *packet,
				       const struct mcr_own *own);

#endif
