// SPDX-License-Identifier: MIT
#include "rules.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "ring.h"

void mcr_rules_init(struct mcr_rules *rules)
{
	mcr_match_init(&rules->match); /* the rest starts as the zero pages it is mapped from */
}

static void claim_rule_counters(struct mcr_rule_counters *counters, uint64_t tag)
{
	if (mcr_load_relaxed(&counters->tag) == tag)
		return;
	mcr_store_relaxed(&counters->matched, 0);
	mcr_store_release(&counters->tag, tag);
}

static void claim_output_counters(struct mcr_output_counters *counters, uint64_t tag)
{
	if (mcr_load_relaxed(&counters->tag) == tag)
		return;
	mcr_store_relaxed(&counters->submitted, 0);
	mcr_store_relaxed(&counters->sent, 0);
	mcr_store_relaxed(&counters->errors, 0);
	mcr_store_relaxed(&counters->in_doubt, 0);
	mcr_store_relaxed(&counters->bytes, 0);
	mcr_store_relaxed(&counters->last_error, 0);
	mcr_store_release(&counters->tag, tag);
}

/* Only what gather.c looks for. */
static bool is_relayable(const struct mcr_flow *flow)
{
	uint32_t group[4] = { flow->group, flow->group_rest[0], flow->group_rest[1], flow->group_rest[2] };
	uint32_t source[4] = { flow->source, flow->source_rest[0], flow->source_rest[1], flow->source_rest[2] };
	struct mcr_flow relayable = flow->family == MCR_FLOW_IPV6
					    ? mcr_flow_ipv6(flow->interface, flow->vlan, source, group, flow->port)
					    : mcr_flow_ipv4(flow->interface, flow->vlan, flow->source, flow->group,
							    flow->port);

	return flow->interface < MCR_MAX_INTERFACES && flow->vlan < MCR_MAX_VLANS && mcr_flow_equal(flow, &relayable);
}

/* Whether it takes any: other rules may take all of a range. */
static bool has_flows(const struct mcr_rec_rule *record)
{
	return record->flow.family;
}

static const struct mcr_flow *further_flows(const struct mcr_rec_rule *record, const struct mcr_rec_output *outputs)
{
	return (const struct mcr_flow *)(outputs + record->output_count);
}

static bool is_output(const struct mcr_rec_output *record)
{
	if (record->output >= MCR_MAX_OUTPUTS || record->egress >= MCR_MAX_EGRESS || !record->max_train)
		return false;
	return !(record->keeps & MCR_KEEP_ORIGIN) || record->max_train == 1; /* nobody cuts what a raw socket gets */
}

static bool in_range(const struct mcr_rec_rule *record, const struct mcr_rec_output *outputs)
{
	if (record->rule >= MCR_MAX_RULES || record->output_count > MCR_MAX_RULE_OUTPUTS)
		return false;
	if (has_flows(record) ? !is_relayable(&record->flow) : record->more_flows)
		return false;
	for (uint32_t i = 0; i < record->more_flows; i++)
		if (!is_relayable(&further_flows(record, outputs)[i]))
			return false;
	for (uint32_t i = 0; i < record->output_count; i++)
		if (!is_output(&outputs[i]))
			return false;
	return true;
}

static void address_output(struct mcr_output *output, const struct mcr_rec_output *record)
{
	if (record->family != MCR_FLOW_IPV6) {
		output->at.to = (struct sockaddr_in){ .sin_family = AF_INET,
						      .sin_port = record->port,
						      .sin_addr.s_addr = record->address };
		return;
	}
	output->at.to6 = (struct sockaddr_in6){ .sin6_family = AF_INET6 };
	if (!(record->keeps & MCR_KEEP_ORIGIN)) /* for a raw socket that would be a protocol (raw(7)) */
		output->at.to6.sin6_port = record->port;
	output->at.to6.sin6_addr.s6_addr32[0] = record->address;
	memcpy(&output->at.to6.sin6_addr.s6_addr32[1], record->address_rest, sizeof(record->address_rest));
}

static struct mcr_output make_output(const struct mcr_rec_output *record)
{
	struct mcr_output output = {
		.source = record->source,
		.asked_source = { record->asked_source, record->asked_source_rest[0], record->asked_source_rest[1],
				  record->asked_source_rest[2] },
		.egress = record->egress,
		.port = record->port,
		.vlan = record->vlan,
		.source_port = record->source_port,
		.max_train = record->max_train,
		.ttl = record->ttl,
		.service = record->service,
		.keeps = record->keeps,
		.no_carrier = record->no_carrier,
	};

	address_output(&output, record);
	return output;
}

/* No longer find a rule, by any of its flows; the last one that could not be dropped says why. */
static int drop_flows(struct mcr_match *match, uint32_t rule)
{
	int ret = match->rules[rule].flow.family ? mcr_match_drop(match, &match->rules[rule].flow) : 0, error;

	for (uint32_t slot = match->rules[rule].more, next; slot != MCR_NO_RULE; slot = next) {
		next = match->rules[slot].more;
		error = mcr_match_drop(match, &match->rules[slot].flow);
		ret = error ? error : ret;
		mcr_match_give_spare(match, slot);
	}
	match->rules[rule].more = MCR_NO_RULE;
	return ret;
}

/* Have a flow, in this slot, lead to its rule, with its place among those of a range. */
static int put_flow(struct mcr_match *match, const struct mcr_rec_rule *record, uint32_t slot,
		    const struct mcr_flow *flow)
{
	struct mcr_rule *at = &match->rules[slot];
	uint32_t last = flow->family == MCR_FLOW_IPV6 ? flow->group_rest[2] : flow->group;

	at->flow = *flow;
	at->group = (uint16_t)(ntohl(last) & record->group_mask);
	at->port = (uint16_t)(ntohs(flow->port) - ntohs(record->first_port));
	return mcr_match_put(match, slot, record->rule);
}

/* Have a rule found by all of its flows. */
static int put_flows(struct mcr_match *match, const struct mcr_rec_rule *record, const struct mcr_flow *further)
{
	int ret = has_flows(record) ? put_flow(match, record, record->rule, &record->flow) : 0;

	for (uint32_t i = 0; i < record->more_flows && !ret; i++) {
		uint32_t slot = mcr_match_take_spare(match);

		if (slot == MCR_NO_RULE)
			return -ENOSPC;
		match->rules[slot].more = match->rules[record->rule].more;
		match->rules[record->rule].more = slot;
		ret = put_flow(match, record, slot, &further[i]);
	}
	return ret;
}

static void put_outputs(struct mcr_rules *rules, struct mcr_segment *segment, const struct mcr_rec_rule *record,
			const struct mcr_rec_output *outputs)
{
	struct mcr_rule *rule = &rules->match.rules[record->rule];
	uint32_t *link = &rule->first;

	for (uint32_t i = 0; i < record->output_count; i++) {
		struct mcr_output *output = &rules->outputs[outputs[i].output];

		*output = make_output(&outputs[i]);
		rule->keeps |= outputs[i].keeps;
		claim_output_counters(&segment->outputs[outputs[i].output], outputs[i].tag);
		*link = outputs[i].output;
		link = &output->next;
	}
	*link = MCR_NO_OUTPUT;
}

int mcr_rules_put(struct mcr_rules *rules, struct mcr_segment *segment, const struct mcr_rec_rule *record,
		  const struct mcr_rec_output *outputs)
{
	struct mcr_rule *rule;

	if (!in_range(record, outputs))
		return -EINVAL;
	rule = &rules->match.rules[record->rule];
	if (rule->held)
		drop_flows(&rules->match, record->rule);
	*rule = (struct mcr_rule){
		.more = MCR_NO_RULE,
		.output_count = record->output_count,
		.held = true,
	};
	claim_rule_counters(&segment->rules[record->rule], record->tag);
	put_outputs(rules, segment, record, outputs);
	return put_flows(&rules->match, record, further_flows(record, outputs));
}

int mcr_rules_drop(struct mcr_rules *rules, const struct mcr_rec_rule *record)
{
	struct mcr_rule *rule;

	if (record->rule >= MCR_MAX_RULES)
		return -EINVAL;
	rule = &rules->match.rules[record->rule];
	if (!rule->held)
		return -ENOENT;
	rule->held = false;
	return drop_flows(&rules->match, record->rule);
}
