/* SPDX-License-Identifier: MIT */
/*
 * What IP would drop, looked for in a datagram that a rule wants. It leaves with new headers and checksums, so nobody
 * behind the relay could see any more that it was broken. Pure.
 */
#ifndef MCR_SANITY_H
#define MCR_SANITY_H

#include "capture.h"
#include "own.h"
#include "packet.h"

/* Why it may not be relayed; MCR_CAUSE_NONE: it may. `packet` is what the parser made of `frame`. */
enum mcr_cause mcr_sanity_check(const struct mcr_frame *frame, const struct mcr_packet *packet,
				const struct mcr_own *own);

#endif
