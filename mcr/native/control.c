// SPDX-License-Identifier: MIT
#include "control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "journal.h"

#define UDP_IP_HEADERS  28u /* of IPv4 without options, and of UDP */
#define UDP_IP6_HEADERS 48u /* of IPv6, and of UDP */

/* Finish the batch that a dead predecessor had in hand on this capture; see journal.h. */
static void recover_capture(struct mcr_worker *worker, uint32_t slot)
{
	struct mcr_journal_state state = mcr_journal_state(worker->segment);
	struct mcr_capture *capture = &worker->captures[slot];

	if (state.phase == MCR_PHASE_IDLE || state.capture != slot || state.slots > capture->frame_count)
		return;
	if (state.phase == MCR_PHASE_SENDING) {
		capture->in_doubt = state.slots;
		mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_WARNING, MCR_LOG_RECOVERED, slot, state.slots, 0);
		return;
	}
	if (state.phase == MCR_PHASE_COMMIT)
		mcr_capture_mark(capture, state.slots);
	mcr_journal_enter(worker->segment, (struct mcr_journal_state){ MCR_PHASE_RELEASING, slot, state.slots });
	mcr_capture_release(capture, state.slots);
	mcr_journal_enter(worker->segment, (struct mcr_journal_state){ MCR_PHASE_IDLE, 0, 0 });
}

/* A predecessor's fragments have died with it. */
static void recover_fragments(struct mcr_worker *worker, uint32_t slot)
{
	uint32_t count = (uint32_t)mcr_load_relaxed(&worker->segment->captures[slot].fragments);

	worker->reassembly.lost[slot][MCR_CAUSE_FRAGMENT_INCOMPLETE] += count;
	worker->reassembly.losses += count;
}

static int put_capture(struct mcr_worker *worker, const struct mcr_rec_capture *record)
{
	uint32_t slot = record->capture;
	int fd, ret;

	if (slot >= MCR_MAX_INTERFACES || worker->captures[slot].slots)
		return -EPROTO;
	fd = mcr_channel_take(&worker->channel);
	if (fd < 0)
		return fd;
	ret = mcr_capture_attach(&worker->captures[slot], fd, record,
				 mcr_load_relaxed(&worker->segment->captures[slot].cursor));
	if (ret) {
		close(fd);
		return ret;
	}
	worker->active[worker->active_count++] = slot;
	mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_DEBUG, MCR_LOG_CAPTURE_ATTACHED, slot, record->frame_count,
		record->frame_size);
	recover_capture(worker, slot);
	recover_fragments(worker, slot);
	return 0;
}

static int drop_capture(struct mcr_worker *worker, const struct mcr_rec_capture *record)
{
	if (record->capture >= MCR_MAX_INTERFACES || !worker->captures[record->capture].slots)
		return -EPROTO;
	worker->captures[record->capture].leaving = true;
	return 0;
}

void mcr_control_detach(struct mcr_worker *worker, uint32_t capture)
{
	uint32_t i = 0;

	while (worker->active[i] != capture)
		i++;
	worker->active[i] = worker->active[--worker->active_count];
	mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_DEBUG, MCR_LOG_CAPTURE_DETACHED, capture,
		worker->captures[capture].cursor, 0);
	mcr_capture_detach(&worker->captures[capture]);
}

static uint32_t max_segment(uint32_t mtu, uint32_t headers)
{
	return mtu > headers ? mtu - headers : 0;
}

static struct mcr_egress *held_egress(struct mcr_worker *worker, uint32_t slot)
{
	return slot < MCR_MAX_EGRESS && worker->egress[slot].held ? &worker->egress[slot] : NULL;
}

static int put_egress(struct mcr_worker *worker, const struct mcr_rec_egress *record)
{
	int fd;

	if (record->egress >= MCR_MAX_EGRESS || worker->egress[record->egress].held)
		return -EPROTO;
	fd = mcr_channel_take(&worker->channel);
	if (fd < 0)
		return fd;
	worker->egress[record->egress] = (struct mcr_egress){
		.held = true,
		.fd = fd,
		.max_segment = max_segment(record->mtu, record->ipv6 ? UDP_IP6_HEADERS : UDP_IP_HEADERS),
		.common = held_egress(worker, record->common) ? record->common : record->egress,
	};
	return 0;
}

static int drop_raw(struct mcr_worker *worker, const struct mcr_rec_egress *record)
{
	struct mcr_egress *egress = held_egress(worker, record->egress);

	if (!egress || !egress->raw)
		return -EPROTO;
	close(egress->raw_fd);
	egress->raw = false;
	return 0;
}

/* Raw frames come from the port of the UDP socket: which of the two a datagram took is not to be seen on the wire. */
static int put_raw(struct mcr_worker *worker, const struct mcr_rec_raw *record)
{
	struct mcr_egress *egress = held_egress(worker, record->egress);
	struct sockaddr_in from;
	socklen_t size = sizeof(from);
	int fd;

	if (!egress)
		return -EPROTO;
	fd = mcr_channel_take(&worker->channel);
	if (fd < 0)
		return fd;
	if (egress->raw)
		close(egress->raw_fd);
	egress->raw = true;
	egress->tagged_only = record->tagged_only;
	egress->raw_fd = fd;
	if (getsockname(egress->fd, (struct sockaddr *)&from, &size))
		return -errno;
	egress->max_segment = max_segment(record->mtu, UDP_IP_HEADERS);
	egress->source.port = from.sin_port;
	memcpy(egress->source.mac, record->mac, sizeof(egress->source.mac));
	return 0;
}

static int drop_egress(struct mcr_worker *worker, const struct mcr_rec_egress *record)
{
	struct mcr_egress *egress = held_egress(worker, record->egress);

	if (!egress)
		return -EPROTO;
	close(egress->fd);
	if (egress->raw)
		close(egress->raw_fd);
	egress->held = egress->raw = false;
	return 0;
}

/* Forget a dead predecessor's batch of a capture that has gone: it does not concern the next capture in its slot. */
static void forget_orphan(struct mcr_worker *worker)
{
	uint32_t slot = mcr_journal_state(worker->segment).capture;

	if (slot >= MCR_MAX_INTERFACES || !worker->captures[slot].slots)
		mcr_journal_enter(worker->segment, (struct mcr_journal_state){ MCR_PHASE_IDLE, 0, 0 });
}

static int apply_generation(struct mcr_worker *worker, const struct mcr_rec_generation *record)
{
	if (!worker->generation) /* all captures that a predecessor can have read are there */
		forget_orphan(worker);
	worker->generation = record->generation;
	mcr_log_hurry(&worker->log);
	mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_DEBUG, MCR_LOG_GENERATION_APPLIED, record->generation,
		worker->rules.match.used, 0);
	return 0;
}

static int apply_levels(struct mcr_worker *worker, const struct mcr_rec_levels *record)
{
	memcpy(worker->log.level, record->level, sizeof(worker->log.level));
	mcr_log_hurry(&worker->log);
	mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_DEBUG, MCR_LOG_LEVELS_CHANGED, 0, 0, 0);
	return 0;
}

static int put_rule(struct mcr_worker *worker, const struct mcr_rec_rule *record, size_t size)
{
	const struct mcr_rec_output *outputs = (const struct mcr_rec_output *)(record + 1);

	int ret;

	if (size <
	    sizeof(*record) + record->output_count * sizeof(*outputs) + record->more_flows * sizeof(struct mcr_flow))
		return -EPROTO;
	ret = mcr_rules_put(&worker->rules, worker->segment, record, outputs);
	for (uint32_t i = 0; !ret && i < record->output_count;
	     i++) /* what the former ones in their slots were refused */
		worker->refusals.outputs[outputs[i].output] = (struct mcr_output_refusals){ 0 };
	return ret;
}

static int put_own(struct mcr_worker *worker, const struct mcr_rec_own *record, size_t size)
{
	const struct mcr_rec_own_key *keys = (const struct mcr_rec_own_key *)(record + 1);

	if (record->count > MCR_MAX_OWN || size < sizeof(*record) + record->count * sizeof(*keys))
		return -EPROTO;
	return mcr_own_set(&worker->own, keys, record->count);
}

static int put_refused(struct mcr_worker *worker, const struct mcr_rec_refused *record, size_t size)
{
	const struct mcr_refusal *flows = (const struct mcr_refusal *)(record + 1);

	if (record->count > MCR_MAX_REFUSED || size < sizeof(*record) + record->count * sizeof(*flows))
		return -EPROTO;
	return mcr_refused_set(&worker->refused, flows, record->count);
}

static size_t body_size(uint32_t type)
{
	switch (type) {
	case MCR_REC_CAPTURE_PUT:
	case MCR_REC_CAPTURE_DROP:
		return sizeof(struct mcr_rec_capture);
	case MCR_REC_EGRESS_PUT:
	case MCR_REC_EGRESS_DROP:
	case MCR_REC_RAW_DROP:
		return sizeof(struct mcr_rec_egress);
	case MCR_REC_RAW_PUT:
		return sizeof(struct mcr_rec_raw);
	case MCR_REC_RULE_PUT:
	case MCR_REC_RULE_DROP:
		return sizeof(struct mcr_rec_rule);
	case MCR_REC_GENERATION:
		return sizeof(struct mcr_rec_generation);
	case MCR_REC_LEVELS:
		return sizeof(struct mcr_rec_levels);
	case MCR_REC_OWN:
		return sizeof(struct mcr_rec_own);
	case MCR_REC_REFUSED:
		return sizeof(struct mcr_rec_refused);
	default:
		return 0;
	}
}

static int apply_record(struct mcr_worker *worker, const struct mcr_record *record, size_t size)
{
	const void *body = record + 1;

	if (size < body_size(record->type))
		return -EPROTO;
	switch (record->type) {
	case MCR_REC_CAPTURE_PUT:
		return put_capture(worker, body);
	case MCR_REC_CAPTURE_DROP:
		return drop_capture(worker, body);
	case MCR_REC_EGRESS_PUT:
		return put_egress(worker, body);
	case MCR_REC_EGRESS_DROP:
		return drop_egress(worker, body);
	case MCR_REC_RAW_PUT:
		return put_raw(worker, body);
	case MCR_REC_RAW_DROP:
		return drop_raw(worker, body);
	case MCR_REC_RULE_PUT:
		return put_rule(worker, body, size);
	case MCR_REC_RULE_DROP:
		return mcr_rules_drop(&worker->rules, body);
	case MCR_REC_GENERATION:
		return apply_generation(worker, body);
	case MCR_REC_LEVELS:
		return apply_levels(worker, body);
	case MCR_REC_OWN:
		return put_own(worker, body, size);
	case MCR_REC_REFUSED:
		return put_refused(worker, body, size);
	case MCR_REC_STOP:
		worker->draining = true;
		return 0;
	default:
		return -EPROTO;
	}
}

static bool any_leaving(const struct mcr_worker *worker)
{
	for (uint32_t i = 0; i < worker->active_count; i++)
		if (worker->captures[worker->active[i]].leaving)
			return true;
	return false;
}

int mcr_control_apply(struct mcr_worker *worker)
{
	const struct mcr_record *record;
	int length, ret;

	/* A capture that leaves is read to its end first: what follows may reuse its slot. */
	while (!any_leaving(worker)) {
		length = mcr_ring_peek(&worker->commands, &record);
		if (length <= 0)
			return length;
		ret = apply_record(worker, record, (size_t)length - sizeof(*record));
		mcr_ring_consume(&worker->commands, length);
		if (ret)
			return ret;
	}
	return 0;
}

void mcr_control_report(struct mcr_worker *worker)
{
	struct mcr_rec_generation ack = { .generation = worker->generation };
	uint64_t one = 1;

	/* A full ring is tried again at the next turn of the loop: an acknowledgement is never lost. */
	if (worker->acknowledged != worker->generation &&
	    !mcr_ring_push(&worker->events, MCR_REC_ACK, &ack, sizeof(ack))) {
		worker->acknowledged = worker->generation;
		worker->log.written = true;
	}
	if (worker->log.written && write(worker->event_fd, &one, sizeof(one)) == sizeof(one))
		worker->log.written = false;
}
