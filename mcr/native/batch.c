// SPDX-License-Identifier: MIT
#include "batch.h"

#include <string.h>

_Static_assert(MCR_BATCH_SLOTS <= UINT16_MAX, "share_of holds the number of any share");

void mcr_batch_begin(struct mcr_batch *batch, uint32_t capture, bool in_doubt)
{
	batch->capture = capture;
	batch->slots = 0;
	batch->in_doubt = in_doubt;
	memset(&batch->add, 0, sizeof(batch->add));
	batch->share_count = 0;
	batch->payload_count = 0;
	batch->outcome_count = 0;
	batch->iov_count = 0;
	batch->oversize.taken = 0;
}

bool mcr_batch_has_room(const struct mcr_batch *batch)
{
	return batch->payload_count + MCR_FRAME_PAYLOADS <= MCR_BATCH_PAYLOADS &&
	       batch->outcome_count + MCR_MAX_RULE_OUTPUTS <= MCR_BATCH_OUTPUTS &&
	       batch->oversize.taken < MCR_BATCH_OVERSIZE;
}

static struct mcr_share *begin_share(struct mcr_batch *batch, uint32_t rule, uint32_t outputs)
{
	struct mcr_share *share = &batch->shares[batch->share_count];

	batch->share_of[rule] = (uint16_t)batch->share_count++;
	*share = (struct mcr_share){ .rule = rule, .first_outcome = batch->outcome_count };
	memset(&batch->outcomes[batch->outcome_count], 0, outputs * sizeof(*batch->outcomes));
	batch->outcome_count += outputs;
	return share;
}

/*
 * A rule's share, if it has one yet. What share_of holds of an earlier batch shows by pointing to no share, or to another
 * rule's; so nothing of it has to be cleared (Briggs and Torczon, 1993).
 */
static struct mcr_share *find_share(struct mcr_batch *batch, uint32_t rule)
{
	uint32_t at = batch->share_of[rule];

	return at < batch->share_count && batch->shares[at].rule == rule ? &batch->shares[at] : NULL;
}

void mcr_batch_add(struct mcr_batch *batch, const struct mcr_rules *rules, struct mcr_payload payload,
		   const struct mcr_origin *origin)
{
	uint32_t rule = rules->match.rules[payload.flow].rule, index = batch->payload_count++;
	struct mcr_share *share = find_share(batch, rule);

	batch->payloads[index] = payload;
	if (rules->match.rules[rule].keeps & MCR_KEEP_ORIGIN)
		batch->origins[index] = *origin;
	if (share) {
		batch->payloads[share->last_payload].next = (uint16_t)index;
	} else {
		share = begin_share(batch, rule, rules->match.rules[rule].output_count);
		share->first_payload = index;
	}
	share->last_payload = index;
	share->payload_count++;
}

void mcr_batch_give_up(struct mcr_batch *batch, const struct mcr_rules *rules)
{
	for (uint32_t i = 0; i < batch->share_count; i++) {
		const struct mcr_share *share = &batch->shares[i];
		struct mcr_outcome *outcome = &batch->outcomes[share->first_outcome];

		for (uint32_t left = rules->match.rules[share->rule].output_count; left; left--, outcome++)
			outcome->errors = outcome->in_doubt = share->payload_count;
	}
}
