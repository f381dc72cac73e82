/* SPDX-License-Identifier: MIT */
/*
 * Reads what the filter tells of streams (bpf/tap.h), and analyses it: a thread of mcrd's that runs mcr_tap_run, and
 * touches nothing of Python's. Everybody else may ask it at any time.
 */
#ifndef MCR_HEALTH_TAP_H
#define MCR_HEALTH_TAP_H

#include <stdbool.h>
#include <stdint.h>

#include "bpf/load.h"
#include "health/stream.h"

struct mcr_tap;

/* Map what these maps have; they stay the caller's. NULL: errno says why not. */
struct mcr_tap *mcr_tap_open(const struct mcr_bpf_tap *maps);

/* When nobody runs it any more. */
void mcr_tap_close(struct mcr_tap *tap);

/* Analyse what is told until mcr_tap_stop. */
void mcr_tap_run(struct mcr_tap *tap);
void mcr_tap_stop(struct mcr_tap *tap);

/* Begin with a stream, as MCR_STREAM_… or found out (0). 0, -EINVAL: no such number, -ENOMEM. */
int mcr_tap_begin(struct mcr_tap *tap, uint32_t number, uint32_t kind);
void mcr_tap_end(struct mcr_tap *tap, uint32_t number);

/* What is known of a stream, as of now. false: there is none of this number. */
bool mcr_tap_read(struct mcr_tap *tap, uint32_t number, struct mcr_figures *figures);

#endif
