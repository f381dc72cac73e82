// SPDX-License-Identifier: MIT
#include "health/stream.h"

#include <string.h>

#define ALIKE  3   /* datagrams that show what a stream is */
#define UNLIKE 100 /* that show that it is something else now */

/* What was told of one: its first bytes, or a brief. */
struct datagram {
	uint64_t time;
	const uint8_t *payload;
	uint32_t size, kept;
	const void *packets; /* of a brief, each `step` bytes; NULL: there is none */
	uint32_t step;
};

static bool is_ts(const uint8_t *payload, uint32_t size, uint32_t kept)
{
	if (!size || size % MCR_TS_PACKET)
		return false;
	for (uint32_t at = 0; at < kept; at += MCR_TS_PACKET)
		if (payload[at] != MCR_TS_SYNC)
			return false;
	return kept != 0;
}

/* What a single datagram looks like; with RTP, its header. */
static uint32_t look_at(const uint8_t *payload, uint32_t size, uint32_t kept, struct mcr_rtp_packet *packet)
{
	uint32_t kind = MCR_STREAM_RTP;

	if (is_ts(payload, size, kept))
		return MCR_STREAM_TS;
	if (!mcr_rtp_read(packet, payload, size, kept))
		return 0;
	if (packet->size < kept && is_ts(payload + packet->size, size - packet->size, kept - packet->size))
		kind |= MCR_STREAM_TS;
	return kind;
}

/* Find out what it is: by some datagrams that look alike, and if it is RTP follow each other. */
static void find_out(struct mcr_stream *stream, uint32_t looks, const struct mcr_rtp_packet *packet)
{
	bool follows = !(looks & MCR_STREAM_RTP) || packet->sequence == stream->next;

	stream->alike = looks && looks == stream->likely && follows ? stream->alike + 1 : 1;
	stream->likely = looks;
	stream->next = (uint16_t)(packet->sequence + 1);
	if (!looks || stream->alike < ALIKE)
		return;
	stream->kind = looks;
	stream->unlike = 0;
}

/* What was asked for; a transport stream in RTP or without, as it comes. */
static void follow_asked(struct mcr_stream *stream, uint32_t looks)
{
	if (looks & MCR_STREAM_TS && (looks & MCR_STREAM_RTP || stream->asked == MCR_STREAM_TS))
		stream->kind = looks;
	else
		stream->kind |= stream->asked;
}

/* Whether a datagram is in RTP if its stream is. Too many that are not so: find out again, if that may be. */
static bool fits(struct mcr_stream *stream, uint32_t looks)
{
	if (!((looks ^ stream->kind) & MCR_STREAM_RTP)) {
		stream->unlike = 0;
		return true;
	}
	stream->other++;
	if (++stream->unlike >= UNLIKE && !stream->asked) {
		stream->kind = stream->alike = 0;
		mcr_rtp_resume(&stream->rtp);
		mcr_ts_resume(&stream->ts);
	}
	return false;
}

/* The media in a datagram: behind RTP's header, and nothing of a packet that came before. */
static void take_media(struct mcr_stream *stream, const struct datagram *datagram, uint32_t header)
{
	uint32_t packets = (datagram->size - header) / MCR_TS_PACKET;

	if (!(stream->kind & MCR_STREAM_TS))
		return;
	if (datagram->packets)
		mcr_ts_take(&stream->ts, datagram->time, datagram->packets, packets, datagram->step);
	else if (datagram->kept == datagram->size)
		mcr_ts_take(&stream->ts, datagram->time, datagram->payload + header, packets, MCR_TS_PACKET);
	else
		mcr_ts_resume(&stream->ts);
}

static uint64_t missed(const struct mcr_stream *stream)
{
	uint64_t each = stream->rtp.packets ? stream->ts.packets / stream->rtp.packets : 0;

	if (!(stream->kind & MCR_STREAM_RTP))
		return stream->ts.missing;
	return stream->rtp.lost * (stream->kind & MCR_STREAM_TS && each ? each : 1);
}

static void take_known(struct mcr_stream *stream, const struct datagram *datagram, uint32_t looks,
		       const struct mcr_rtp_packet *packet)
{
	uint32_t header = looks & MCR_STREAM_RTP ? packet->size : 0;

	if (header > datagram->kept)
		header = datagram->kept;
	if (!(stream->kind & MCR_STREAM_RTP) || mcr_rtp_take(&stream->rtp, datagram->time, packet) == MCR_RTP_NEXT)
		take_media(stream, datagram, header);
	mcr_delay_take(&stream->delay, datagram->time, datagram->size - header, stream->ts.rate, missed(stream));
}

/* Add what has been lost since the last time, of the kind that the stream is now. A change of kind loses nothing. */
static void note_loss(struct mcr_stream *stream, uint64_t time)
{
	uint64_t rtp = stream->rtp.lost - stream->noted_rtp, ts = stream->ts.missing - stream->noted_ts;
	uint64_t lost = stream->kind == MCR_STREAM_TS ? ts : rtp;

	if (lost)
		stream->lost_time = time;
	stream->lost += lost;
	stream->noted_rtp += rtp;
	stream->noted_ts += ts;
}

static void take(struct mcr_stream *stream, const struct datagram *datagram, uint32_t looks,
		 const struct mcr_rtp_packet *packet)
{
	stream->packets++;
	stream->bytes += datagram->size;
	mcr_gaps_take(&stream->gaps, datagram->time);
	if (stream->asked) {
		follow_asked(stream, looks);
	} else if (!stream->kind) {
		find_out(stream, looks, packet);
		mcr_delay_take(&stream->delay, datagram->time, datagram->size, 0, 0);
		return;
	}
	if (fits(stream, looks))
		take_known(stream, datagram, looks, packet);
	note_loss(stream, datagram->time);
}

void mcr_stream_take(struct mcr_stream *stream, uint64_t time, const uint8_t *payload, uint32_t size, uint32_t kept)
{
	const struct datagram datagram = { .time = time, .payload = payload, .size = size, .kept = kept };
	struct mcr_rtp_packet packet = { 0 };
	uint32_t looks = look_at(payload, size, kept, &packet);

	take(stream, &datagram, looks, &packet);
}

/* The packets of a brief with their fields, as far as they are there. */
static void join(uint32_t packets[MCR_BPF_BRIEF_PACKETS][MCR_TS_BRIEF / 4], const struct mcr_bpf_brief *brief)
{
	for (uint32_t i = 0; i < MCR_BPF_BRIEF_PACKETS; i++) {
		packets[i][0] = brief->headers[i];
		memcpy(&packets[i][1], brief->fields[i], sizeof(brief->fields[i]));
	}
}

void mcr_stream_take_brief(struct mcr_stream *stream, uint64_t time, const struct mcr_bpf_brief *brief, uint32_t size,
			   bool has_fields)
{
	struct datagram datagram = { .time = time, .size = size, .kept = size, .packets = brief->headers };
	uint32_t packets[MCR_BPF_BRIEF_PACKETS][MCR_TS_BRIEF / 4], looks = MCR_STREAM_TS;
	struct mcr_rtp_packet packet = { 0 };

	datagram.step = MCR_TS_TERSE;
	if (has_fields) {
		join(packets, brief);
		datagram.packets = packets;
		datagram.step = MCR_TS_BRIEF;
	}
	if (size % MCR_TS_PACKET)
		looks = mcr_rtp_read(&packet, (const uint8_t *)brief->rtp, size, sizeof(brief->rtp))
				? MCR_STREAM_RTP | MCR_STREAM_TS
				: 0;
	take(stream, &datagram, looks, &packet);
}

void mcr_stream_wait(struct mcr_stream *stream, uint64_t now)
{
	mcr_rtp_wait(&stream->rtp, now);
	note_loss(stream, now);
}

void mcr_stream_miss(struct mcr_stream *stream, uint64_t count)
{
	stream->unseen += count;
	mcr_rtp_resume(&stream->rtp);
	mcr_ts_resume(&stream->ts);
}

uint32_t mcr_stream_needs(const struct mcr_stream *stream)
{
	return stream->kind & MCR_STREAM_TS ? MCR_BPF_KEPT : MCR_BPF_KEPT_HEAD;
}

void mcr_stream_tell(const struct mcr_stream *stream, struct mcr_figures *figures)
{
	const struct mcr_delay *delay = &stream->delay;
	const struct mcr_ts *ts = &stream->ts;

	*figures = (struct mcr_figures){
		.kind = stream->kind,
		.packets = stream->packets,
		.bytes = stream->bytes,
		.unseen = stream->unseen,
		.other = stream->other,
		.stalls = stream->gaps.stalls,
		.gap_median = mcr_gaps_quantile(&stream->gaps, 500),
		.gap_99 = mcr_gaps_quantile(&stream->gaps, 990),
		.gap_longest = mcr_gaps_longest(&stream->gaps),
		.lost = stream->lost,
		.lost_time = stream->lost_time,
		.newest = stream->gaps.newest,
		.late = stream->rtp.late,
		.reordered = stream->rtp.reordered,
		.duplicates = stream->rtp.duplicates,
		.restarts = stream->rtp.restarts,
		.jitter = mcr_rtp_jitter(&stream->rtp),
		.has_clock = mcr_rtp_has_clock(&stream->rtp),
		.ts_packets = ts->packets,
		.continuity = ts->continuity,
		.sync_losses = ts->sync_losses,
		.sync_bytes = ts->sync_bytes,
		.pat_errors = ts->pat_errors,
		.pmt_errors = ts->pmt_errors,
		.pid_errors = ts->referred.errors,
		.transport = ts->transport,
		.pat_time = ts->pat.seen ? ts->pat.time : 0,
		.pmt_time = mcr_ts_oldest_pmt(ts),
		.delay_factor = delay->factor,
		.delay_factor_highest = delay->factors[0] > delay->factors[1] ? delay->factors[0] : delay->factors[1],
		.loss_rate = delay->loss,
		.loss_rate_highest = delay->losses[0] > delay->losses[1] ? delay->losses[0] : delay->losses[1],
	};
	figures->away_count = mcr_ts_away(ts, figures->away);
}
