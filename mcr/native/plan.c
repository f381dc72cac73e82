// SPDX-License-Identifier: MIT
#include "plan.h"

#include <errno.h>

#define UDP_MAX_PAYLOAD 65507u /* of one sendmsg over IPv4 */

void mcr_batch_clear(struct mcr_batch *batch)
{
	batch->payload_count = 0;
	batch->iov_count = 0;
}

void mcr_batch_add(struct mcr_batch *batch, struct mcr_rule *rule, const uint8_t *payload, uint32_t size)
{
	uint32_t index = batch->payload_count++;

	batch->payloads[index] = (struct mcr_payload){ .data = payload, .size = size };
	if (rule->payload_count++)
		batch->payloads[rule->last_payload].next = index;
	else
		rule->first_payload = index;
	rule->last_payload = index;
}

/* Lay a rule's payloads out one after the other. The first of them. */
static uint32_t gather(struct mcr_batch *batch, const struct mcr_rule *rule)
{
	uint32_t first = batch->iov_count, at = rule->first_payload;

	for (uint32_t i = 0; i < rule->payload_count; i++) {
		const struct mcr_payload *payload = &batch->payloads[at];

		batch->iov[batch->iov_count++] = (struct iovec){ .iov_base = (void *)payload->data,
								 .iov_len = payload->size };
		at = payload->next;
	}
	return first;
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

void mcr_plan_start(struct mcr_plan *plan, const uint32_t *rules, uint32_t count)
{
	*plan = (struct mcr_plan){ .rules = rules, .rule_count = count, .output = MCR_NO_OUTPUT };
}

/* Go on to the next train, of this rule or the next one that has payloads. false: there is none. */
static bool next_train(struct mcr_plan *plan, struct mcr_batch *batch, const struct mcr_rules *rules)
{
	const struct mcr_rule *rule;

	plan->iov += plan->train;
	plan->left -= plan->train;
	if (!plan->left) {
		if (plan->next_rule == plan->rule_count)
			return false;
		rule = &rules->rules[plan->rules[plan->next_rule++]];
		plan->iov = &batch->iov[gather(batch, rule)];
		plan->left = rule->payload_count;
	} else {
		rule = &rules->rules[plan->rules[plan->next_rule - 1]];
	}
	plan->train = train_length(plan->iov, plan->left);
	plan->output = rule->first;
	plan->done = 0;
	return true;
}

bool mcr_plan_next(struct mcr_plan *plan, struct mcr_batch *batch, struct mcr_rules *rules,
		   const struct mcr_egress *egress, struct mcr_send *send)
{
	const struct mcr_output *output;
	const struct mcr_egress *by;
	uint32_t limit, count;
	bool fits, refused;

	if (plan->output == MCR_NO_OUTPUT && !next_train(plan, batch, rules))
		return false;
	output = &rules->outputs[plan->output];
	by = &egress[output->egress];
	fits = plan->iov->iov_len <= by->max_segment; /* the others are not longer */
	refused = output->refused == rules->epoch;
	limit = fits && !refused && output->cut != rules->epoch ? output->max_train : 1;
	count = plan->train - plan->done < limit ? plan->train - plan->done : limit;
	*send = (struct mcr_send){
		.payloads = plan->iov + plan->done,
		.count = count,
		.output = plan->output,
		.raw = fits && !refused && output->source && by->raw,
	};
	plan->done += count;
	if (plan->done == plan->train) {
		plan->output = output->next;
		plan->done = 0;
	}
	return true;
}

bool mcr_train_refused(const struct mcr_send *send, int result)
{
	/* A device without checksum offload, a path MTU below the segment, a kernel that wants fewer segments. */
	return send->count > 1 && (result == -EIO || result == -EINVAL || result == -EMSGSIZE);
}

bool mcr_raw_refused(const struct mcr_send *send, int result)
{
	/* But what has no room would have none there either, or overtake what waits. */
	return send->raw && result < 0 && result != -EAGAIN && result != -ENOBUFS && result != -ENOMEM;
}
