// SPDX-License-Identifier: MIT
#include "gather.h"

#include <errno.h>
#include <string.h>

#include "clock.h"
#include "packet.h"
#include "parse.h"
#include "refused.h"
#include "ring.h"
#include "sanity.h"

#define MAX_HEADERS (60 + 8) /* bytes, of IPv4 with all options, and of UDP; of IPv6 those without extensions */

static struct mcr_origin origin_of(const struct mcr_packet *packet)
{
	struct mcr_origin origin = { .address = { packet->source }, .port = packet->source_port };

	if (packet->family == MCR_FLOW_IPV6)
		memcpy(origin.address, packet->source6, sizeof(origin.address));
	return origin;
}

/* Each datagram of a frame that matched: one, or a super-frame's. */
static void add_payloads(struct mcr_worker *worker, uint32_t flow, const struct mcr_frame *frame,
			 const struct mcr_packet *packet)
{
	uint32_t segment = frame->segment ? frame->segment : packet->payload_size, done = 0;
	struct mcr_payload payload = { .marks = { packet->ttl, packet->service }, .flow = (uint16_t)flow };
	const struct mcr_origin origin = origin_of(packet);

	do { /* an empty datagram is one, too */
		uint32_t left = packet->payload_size - done, size = left < segment ? left : segment;

		worker->batch.add.recv++;
		payload.data = frame->data + packet->payload + done;
		payload.size = (uint16_t)size; /* no datagram is longer */
		mcr_batch_add(&worker->batch, &worker->rules, payload, &origin);
		done += size;
	} while (done < packet->payload_size);
}

/* Datagrams in a frame. */
static uint32_t datagrams(const struct mcr_frame *frame, const struct mcr_packet *packet)
{
	return frame->segment && packet->payload_size ? (packet->payload_size - 1) / frame->segment + 1 : 1;
}

/* An IPv6 address, as two arguments of a record. */
static uint64_t half(const uint32_t *address, uint32_t number)
{
	uint64_t halves[2];

	memcpy(halves, address, sizeof(halves));
	return halves[number];
}

static void take_unmatched(struct mcr_worker *worker, const struct mcr_packet *packet, uint32_t count)
{
	worker->batch.add.recv += count;
	worker->batch.add.no_match += count;
	if (packet->family == MCR_FLOW_IPV6)
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_DEBUG, MCR_LOG_NO_MATCH6,
			       worker->batch.capture | (uint64_t)packet->port << 32, half(packet->group6, 0),
			       half(packet->group6, 1));
	else
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_DEBUG, MCR_LOG_NO_MATCH,
			       worker->batch.capture, packet->group, packet->port);
}

static void drop(struct mcr_worker *worker, enum mcr_cause cause, uint32_t count)
{
	worker->batch.add.recv += count;
	worker->batch.add.parse_err += count;
	worker->batch.add.causes[cause] += count;
}

static void take_malformed(struct mcr_worker *worker, const struct mcr_frame *frame, int error)
{
	enum mcr_cause cause = MCR_CAUSE_MALFORMED;

	if (error == EOPNOTSUPP)
		cause = MCR_CAUSE_FRAGMENT;
	else if (error == EEXIST)
		cause = MCR_CAUSE_FRAGMENT_OVERLAP;
	else if (frame->tagged_again)
		cause = MCR_CAUSE_VLAN;
	drop(worker, cause, 1);
	mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_DEBUG, MCR_LOG_PARSE_ERROR, worker->batch.capture,
		       (uint64_t)error, frame->wire_size);
}

/* What else is known stands in the record: the flow of a loop, the cause of another drop. */
static void log_unsound(struct mcr_worker *worker, const struct mcr_packet *packet, enum mcr_cause cause)
{
	enum mcr_level level = cause == MCR_CAUSE_LOOP ? MCR_LEVEL_WARNING : MCR_LEVEL_DEBUG;
	uint64_t capture = worker->batch.capture, port = (uint64_t)packet->port << 32, source = packet->source;

	if (packet->family == MCR_FLOW_IPV6)
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, level,
			       cause == MCR_CAUSE_LOOP ? MCR_LOG_LOOP6 : MCR_LOG_DROPPED6,
			       capture | (cause == MCR_CAUSE_LOOP ? port : (uint64_t)cause << 32),
			       half(packet->source6, 0), half(packet->source6, 1));
	else if (cause == MCR_CAUSE_LOOP)
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, level, MCR_LOG_LOOP, capture, packet->group | port,
			       source);
	else
		mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, level, MCR_LOG_DROPPED, capture, cause, source);
}

/* Whether a slot has all headers of a frame that is longer. */
static bool has_headers(const struct mcr_frame *frame)
{
	const uint8_t *ip = frame->data + frame->network;

	if (frame->network > frame->size || frame->size - frame->network < MAX_HEADERS)
		return false;
	return ip[0] >> 4 != 6 || !mcr_is_extension(((const struct mcr_ipv6 *)ip)->next);
}

/* The headers are there, and with them the number of datagrams that are lost: a slot is longer than any headers. */
static void take_clipped(struct mcr_worker *worker, const struct mcr_frame *frame)
{
	struct mcr_packet packet;
	uint32_t size = has_headers(frame) ? frame->wire_size : frame->size;
	int ret = mcr_packet_parse(frame->data, size, frame->network, &packet);
	uint32_t count = ret ? 1 : datagrams(frame, &packet);

	if (ret == -EPROTONOSUPPORT && frame->ipv6)
		return;
	worker->batch.add.recv += count;
	worker->batch.add.buf_exhaust += count;
	mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_WARNING, MCR_LOG_NO_BUFFER, worker->batch.capture,
		       0, frame->wire_size);
}

/* The datagrams of a super-frame can't be told from each other: all are lost. */
static void take_uncut(struct mcr_worker *worker, const struct mcr_frame *frame)
{
	worker->batch.add.recv += frame->uncut;
	worker->batch.add.buf_exhaust += frame->uncut;
	mcr_log_folded(&worker->log, MCR_FACILITY_INGRESS, MCR_LEVEL_WARNING, MCR_LOG_UNCUT, worker->batch.capture, 0,
		       frame->wire_size);
}

static void take_matched(struct mcr_worker *worker, uint32_t flow, const struct mcr_frame *frame,
			 const struct mcr_packet *packet)
{
	uint32_t rule = worker->rules.match.rules[flow].rule;

	add_payloads(worker, flow, frame, packet);
	mcr_log_folded(&worker->log, MCR_FACILITY_EGRESS, MCR_LEVEL_TRACE, MCR_LOG_FORWARDED, rule,
		       worker->rules.match.rules[rule].output_count, packet->payload_size);
}

/* The slot of its flow, or MCR_NO_RULE. */
static uint32_t find_flow(const struct mcr_worker *worker, const struct mcr_frame *frame,
			  const struct mcr_packet *packet)
{
	uint16_t capture = (uint16_t)worker->batch.capture;
	struct mcr_flow flow;

	if (packet->family == MCR_FLOW_IPV6) {
		flow = mcr_flow_ipv6(capture, frame->vlan, packet->source6, packet->group6, packet->port);
		return mcr_match_find(&worker->rules.match, &flow);
	}
	flow = mcr_flow_ipv4(capture, frame->vlan, packet->source, packet->group, packet->port);
	return mcr_match_find(&worker->rules.match, &flow);
}

/*
 * Whether it comes from somebody who returns what others send to its rule. `flow`: its slot. The count of each such flow is
 * mcrd's, to see who sends; the causes hold what was dropped.
 */
static enum mcr_cause check_returner(const struct mcr_worker *worker, uint32_t flow, const struct mcr_frame *frame,
				     const struct mcr_packet *packet, uint32_t count)
{
	uint16_t capture = (uint16_t)worker->batch.capture;
	const struct mcr_refusal *refusal;
	struct mcr_flow whole = mcr_flow_ipv4(capture, frame->vlan, packet->source, packet->group, packet->port);
	uint64_t *counter;

	if (packet->family == MCR_FLOW_IPV6)
		whole = mcr_flow_ipv6(capture, frame->vlan, packet->source6, packet->group6, packet->port);
	if (mcr_flow_has_source(&worker->rules.match.rules[flow].flow))
		return MCR_CAUSE_NONE;
	refusal = mcr_refused_find(&worker->refused, &whole);
	if (!refusal)
		return MCR_CAUSE_NONE;
	counter = &worker->segment->refused[refusal->place];
	mcr_store_relaxed(counter, mcr_load_relaxed(counter) + count);
	return MCR_CAUSE_RETURNED;
}

/* As mcr_packet_parse(). IP takes no datagram of a version that its frame does not announce. */
static int parse(const struct mcr_frame *frame, struct mcr_packet *packet)
{
	int ret = frame->tagged_again ? -EPFNOSUPPORT
				      : mcr_packet_parse(frame->data, frame->size, frame->network, packet);

	return (!ret || ret == -EOPNOTSUPP) && frame->ipv6 != (packet->family == MCR_FLOW_IPV6) ? -EBADMSG : ret;
}

/*
 * Whether a fragment was the last that its datagram lacked: then `frame` is that. Otherwise it is counted later. `packet`:
 * what is known of it.
 */
static bool put_together(struct mcr_worker *worker, struct mcr_frame *frame, struct mcr_packet *packet)
{
	enum mcr_cause cause = mcr_sanity_check_header(frame, packet, &worker->own);
	int ret;

	packet->port = 0;
	if (cause != MCR_CAUSE_NONE) {
		drop(worker, cause, 1);
		log_unsound(worker, packet, cause);
		return false;
	}
	ret = mcr_reassembly_add(&worker->reassembly, worker->batch.capture, packet, mcr_clock_ns(CLOCK_MONOTONIC),
				 frame);
	if (ret < 0)
		take_malformed(worker, frame, ret == -EEXIST ? EEXIST : EOPNOTSUPP);
	return ret > 0;
}

/*
 * Find what a frame is, and count what is in it. The filter knows of no IPv6 whether UDP stands behind extension headers;
 * what is no UDP is not the relay's to count.
 */
static void take(struct mcr_worker *worker, struct mcr_frame *frame)
{
	struct mcr_packet packet;
	enum mcr_cause cause;
	uint32_t flow, count;
	int ret;

	if (frame->uncut) {
		take_uncut(worker, frame);
		return;
	}
	if (frame->wire_size > frame->size &&
	    mcr_oversize_fetch(&worker->batch.oversize, &worker->captures[worker->batch.capture], frame) < 0) {
		take_clipped(worker, frame);
		return;
	}
	ret = parse(frame, &packet);
	if (ret == -EPROTONOSUPPORT && frame->ipv6)
		return;
	if (ret == -EOPNOTSUPP) {
		if (!put_together(worker, frame, &packet))
			return;
		ret = parse(frame, &packet);
	}
	count = ret ? 0 : datagrams(frame, &packet);
	if (ret || count > MCR_FRAME_PAYLOADS) {
		take_malformed(worker, frame, ret ? -ret : EBADMSG);
		return;
	}
	flow = find_flow(worker, frame, &packet);
	if (flow == MCR_NO_RULE) {
		take_unmatched(worker, &packet, count);
		return;
	}
	cause = mcr_sanity_check(frame, &packet, &worker->own);
	if (cause == MCR_CAUSE_NONE && worker->refused.count)
		cause = check_returner(worker, flow, frame, &packet, count);
	if (cause == MCR_CAUSE_NONE) {
		take_matched(worker, flow, frame, &packet);
		return;
	}
	drop(worker, cause, count);
	log_unsound(worker, &packet, cause);
}

/*
 * Frames of one batch, at most: half a ring, so that the kernel has room while they are sent. A batch never goes round
 * the ring: it would find its own first frames again.
 */
static uint32_t batch_limit(const struct mcr_worker *worker, const struct mcr_capture *capture)
{
	uint32_t limit = worker->segment->header.batch, half = capture->frame_count > 1 ? capture->frame_count / 2 : 1;

	if (limit > MCR_BATCH_SLOTS)
		limit = MCR_BATCH_SLOTS;
	if (limit > half)
		limit = half;
	if (capture->in_doubt && capture->in_doubt < limit)
		limit = capture->in_doubt; /* a batch is in doubt as a whole, or not at all */
	return limit;
}

void mcr_gather(struct mcr_worker *worker, uint32_t slot)
{
	struct mcr_capture *capture = &worker->captures[slot];
	struct mcr_batch *batch = &worker->batch;
	uint32_t limit = batch_limit(worker, capture);
	struct mcr_frame frame;

	if (worker->refused.count) /* the clock may be a system call: once a batch */
		mcr_refused_expire(&worker->refused, mcr_clock_ns(CLOCK_MONOTONIC));
	mcr_batch_begin(batch, slot, capture->in_doubt);
	mcr_reassembly_release(&worker->reassembly);
	while (batch->slots < limit && mcr_batch_has_room(batch) && mcr_reassembly_has_room(&worker->reassembly) &&
	       mcr_capture_frame(capture, batch->slots, &frame)) {
		take(worker, &frame);
		batch->slots++;
	}
	mcr_reassembly_collect(&worker->reassembly, slot, &batch->add);
}
