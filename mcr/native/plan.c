// SPDX-License-Identifier: MIT
#include "plan.h"

#include <string.h>

#define UDP_MAX_PAYLOAD 65507u /* of one sendmsg over IPv4 */

/* Lay a share's payloads out one after the other, with their numbers if its outputs keep something. The first of them. */
static struct iovec *lay_out(struct mcr_batch *batch, const struct mcr_share *share, bool keeps)
{
	struct iovec *first = &batch->iov[batch->iov_count];
	uint32_t at = share->first_payload;

	for (uint32_t i = 0; i < share->payload_count; i++) {
		const struct mcr_payload *payload = &batch->payloads[at];

		if (keeps)
			batch->which[batch->iov_count] = (uint16_t)at;
		batch->iov[batch->iov_count++] = (struct iovec){ .iov_base = (void *)payload->data,
								 .iov_len = payload->size };
		at = payload->next;
	}
	return first;
}

/* Whether two payloads leave with the same headers. `keeps`: what their rule's outputs keep. */
static bool is_alike(const struct mcr_batch *batch, uint32_t one, uint32_t other, uint8_t keeps)
{
	const struct mcr_marks *marks = &batch->payloads[one].marks, *others = &batch->payloads[other].marks;
	const struct mcr_origin *origin = &batch->origins[one], *another = &batch->origins[other];

	if (marks->ttl != others->ttl || marks->service != others->service)
		return false;
	if (keeps & MCR_SHIFT && batch->payloads[one].flow != batch->payloads[other].flow)
		return false;
	return !(keeps & MCR_KEEP_ORIGIN) ||
	       (origin->port == another->port && !memcmp(origin->address, another->address, sizeof(origin->address)));
}

/* How many of `count` payloads, from the one laid out at `first` on, leave with the same headers. */
static uint32_t alike(const struct mcr_batch *batch, size_t first, uint32_t count, uint8_t keeps)
{
	const uint16_t *which = &batch->which[first];
	uint32_t n = 1;

	while (n < count && is_alike(batch, which[0], which[n], keeps))
		n++;
	return n;
}

/* How many of the first `count` payloads can travel in one train. */
static uint32_t train_length(const struct iovec *iov, uint32_t count)
{
	size_t size = iov[0].iov_len, total = size;
	uint32_t n = 1;

	/* An empty payload can't be told from the end of its train. */
	while (n < count && n < MCR_TRAIN_MAX && iov[n].iov_len && iov[n].iov_len <= size &&
	       total + iov[n].iov_len <= UDP_MAX_PAYLOAD) {
		total += iov[n].iov_len;
		if (iov[n++].iov_len < size)
			break;
	}
	return n;
}

void mcr_plan_start(struct mcr_batch *batch)
{
	batch->plan = (struct mcr_plan){ .output = MCR_NO_OUTPUT };
}

/* Go on to the next train, of this share or the next one. false: there is none. */
static bool next_train(struct mcr_batch *batch, const struct mcr_rules *rules)
{
	struct mcr_plan *plan = &batch->plan;
	const struct mcr_share *share;
	const struct mcr_rule *rule;
	uint32_t most;

	plan->iov += plan->train;
	plan->left -= plan->train;
	if (!plan->left) {
		if (plan->next_share == batch->share_count)
			return false;
		share = &batch->shares[plan->next_share++];
		plan->iov = lay_out(batch, share, rules->match.rules[share->rule].keeps);
		plan->left = share->payload_count;
	} else {
		share = &batch->shares[plan->next_share - 1];
	}
	rule = &rules->match.rules[share->rule];
	most = rule->keeps ? alike(batch, (size_t)(plan->iov - batch->iov), plan->left, rule->keeps) : plan->left;
	plan->train = train_length(plan->iov, most);
	plan->output = rule->first;
	plan->outcome = share->first_outcome;
	plan->done = 0;
	return true;
}

/* These payloads of the train have been planned for its output. */
static void advance(struct mcr_plan *plan, const struct mcr_output *output, uint32_t count)
{
	plan->done += count;
	if (plan->done < plan->train)
		return;
	plan->output = output->next;
	plan->outcome++;
	plan->done = 0;
}

/* What the output keeps of the headers that the send's datagrams came with; those of a train have the same. */
static void keep(const struct mcr_batch *batch, const struct mcr_rules *rules, const struct mcr_output *output,
		 struct mcr_send *send)
{
	uint32_t which = batch->which[send->payloads - batch->iov];
	const struct mcr_marks *marks = &batch->payloads[which].marks;
	const struct mcr_rule *flow = &rules->match.rules[batch->payloads[which].flow];

	if (output->keeps & MCR_KEEP_SERVICE)
		send->service = marks->service;
	if (output->keeps & MCR_KEEP_TTL)
		send->ttl = marks->ttl;
	if (output->keeps & MCR_DECREMENT_TTL)
		send->ttl = marks->ttl ? (uint8_t)(marks->ttl - 1) : 0;
	if (output->keeps & MCR_KEEP_ORIGIN)
		send->origin = &batch->origins[which];
	if (output->keeps & MCR_SHIFT_GROUP)
		send->groups = flow->group;
	if (output->keeps & MCR_SHIFT_PORT)
		send->ports = flow->port;
	send->expired = output->keeps & (MCR_KEEP_TTL | MCR_DECREMENT_TTL) && !send->ttl;
}

static bool may_be_raw(const struct mcr_output *output, const struct mcr_egress *by)
{
	return output->source && by->raw && (output->vlan || !by->tagged_only);
}

bool mcr_plan_next(struct mcr_batch *batch, const struct mcr_rules *rules, const struct mcr_egress *egress,
		   const struct mcr_refusals *refusals, struct mcr_send *send)
{
	struct mcr_plan *plan = &batch->plan;
	const struct mcr_output_refusals *refused;
	const struct mcr_output *output;
	const struct mcr_egress *by;
	struct iovec *payloads;
	uint32_t limit, left;
	bool fits, through_ip;

	while (plan->output == MCR_NO_OUTPUT)
		if (!next_train(batch, rules))
			return false;
	output = &rules->outputs[plan->output];
	refused = &refusals->outputs[plan->output];
	by = &egress[output->egress];
	payloads = plan->iov + plan->done;
	fits = payloads->iov_len <= by->max_segment; /* the others are not longer; the last may fit alone */
	through_ip = refused->raw == refusals->epoch;
	limit = fits && !through_ip && refused->train != refusals->epoch ? output->max_train : 1;
	left = plan->train - plan->done;
	*send = (struct mcr_send){
		.payloads = payloads,
		.count = left < limit ? left : limit,
		.output = plan->output,
		.outcome = plan->outcome,
		.raw = fits && !through_ip && may_be_raw(output, by),
		.ttl = output->ttl,
		.service = output->service,
		.vlan = output->vlan,
	};
	if (output->keeps)
		keep(batch, rules, output, send);
	advance(plan, output, send->count);
	return true;
}
