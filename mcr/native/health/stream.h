/* SPDX-License-Identifier: MIT */
/*
 * The health of one stream, at the input of its rule: what its datagrams say of how they came. Pure; a datagram is a time
 * and bytes, of which the last may be missing.
 */
#ifndef MCR_HEALTH_STREAM_H
#define MCR_HEALTH_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "bpf/abi.h"
#include "health/delay.h"
#include "health/gaps.h"
#include "health/rtp.h"
#include "health/ts.h"

/* What a stream is; bits. */
enum mcr_stream_kind { MCR_STREAM_RTP = 1, MCR_STREAM_TS = 2 };

struct mcr_stream {
	uint32_t asked;  /* MCR_STREAM_…: it is taken for that; 0: found out */
	uint32_t kind;   /* MCR_STREAM_…, as found */
	uint32_t likely; /* kind of the datagrams that are being looked at */
	uint32_t alike;  /* how many of these came in a row */
	uint32_t unlike; /* datagrams in a row that are nothing of `kind` */
	uint16_t next;   /* sequence number that makes another RTP packet likely */
	uint64_t packets;
	uint64_t bytes;
	uint64_t unseen; /* datagrams that came, and could not be looked at */
	uint64_t other;  /* that are nothing of `kind` */
	uint64_t lost;   /* as mcr_figures has it */
	uint64_t lost_time;
	uint64_t noted_rtp; /* of `rtp.lost`, up to when it was last added to `lost` */
	uint64_t noted_ts;  /* likewise of `ts.missing` */
	uint64_t astray;    /* of `unseen`, those of processors without a ring, as the filter counts them */
	struct mcr_gaps gaps;
	struct mcr_delay delay;
	struct mcr_rtp rtp;
	struct mcr_ts ts;
};

/* A datagram has come, of `size` bytes, of which `kept` are there. */
void mcr_stream_take(struct mcr_stream *stream, uint64_t time, const uint8_t *payload, uint32_t size, uint32_t kept);

/* Likewise, where the filter tells of a transport stream's in brief. If not `has_fields`, it ends before those. */
void mcr_stream_take_brief(struct mcr_stream *stream, uint64_t time, const struct mcr_bpf_brief *brief, uint32_t size,
			   bool has_fields);

/* Time goes by without a datagram. */
void mcr_stream_wait(struct mcr_stream *stream, uint64_t now);

/* So many came that were not seen. */
void mcr_stream_miss(struct mcr_stream *stream, uint64_t count);

/* How many bytes of each datagram have to be kept. */
uint32_t mcr_stream_needs(const struct mcr_stream *stream);

/* What is told of a stream: counts, and times in ns. 0 where it does not apply, or is not known. */
struct mcr_figures {
	uint64_t kind;
	uint64_t packets, bytes, unseen, other;
	uint64_t stalls, gap_median, gap_99, gap_longest;
	uint64_t lost;      /* of RTP, else of the transport stream by continuity counters: of 16 in a row none */
	uint64_t lost_time; /* when `lost` grew last; it never falls */
	uint64_t newest;    /* when a datagram came last */
	uint64_t late, reordered, duplicates, restarts, jitter, has_clock; /* of RTP: whether there is a jitter */
	uint64_t ts_packets, continuity, sync_losses, sync_bytes, pat_errors, pmt_errors, pid_errors, transport;
	uint64_t away_count, away[MCR_TS_AWAY]; /* PIDs that stay away now */
	uint64_t pat_time, pmt_time; /* when they came last; of PMTs, that of the one that has been away longest */
	uint64_t delay_factor, delay_factor_highest, loss_rate, loss_rate_highest;
};

void mcr_stream_tell(const struct mcr_stream *stream, struct mcr_figures *figures);

#endif
