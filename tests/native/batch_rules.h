/* SPDX-License-Identifier: MIT */
/* The rules of batch_world.h. */
#ifndef BATCH_RULES_H
#define BATCH_RULES_H

#include <arpa/inet.h>

#include "common.h"
#include "worker.h"

#define CAPTURES  3
#define DESCRIBED 2 /* of them: the kernel says how to cut super-frames */
#define RULES     8
#define OUTPUTS   5    /* of a rule, at most */
#define PORT      6000 /* and the slot of an output */

/* One rule in four takes what comes from two sources, one of them that of the frames; by its second flow or its first. */
static void name_sources(struct mcr_rec_rule *head, struct mcr_flow *further)
{
	bool second = rnd(2);

	if (head->rule % 4 != 3)
		return;
	*further = head->flow;
	head->flow.source = htonl(second ? 0xc6120005 : 0xc6120001);
	further->source = htonl(second ? 0xc6120001 : 0xc6120005);
	head->more_flows = 1;
}

/* Half of the rules take what comes to a group of IPv6, too. */
static bool takes_ipv6(uint32_t rule)
{
	return rule % 4 == 1 || rule % 4 == 2;
}

static void name_ipv6(struct mcr_rec_rule *head, struct mcr_flow *further)
{
	uint32_t group[] = { htonl(0xff150000), 0, 0, htonl(head->rule) };

	if (!takes_ipv6(head->rule))
		return;
	*further = mcr_flow_ipv6(head->flow.interface, 0, NULL, group, head->flow.port);
	head->more_flows = 1;
}

/* Whether raw frames may go to a rule's output; the others may keep where datagrams came from. */
static bool may_be_raw(uint32_t output)
{
	return output == 1 || output == 2;
}

static void put_rule(struct mcr_worker *worker, uint32_t rule)
{
	struct mcr_rec_rule head = { .tag = 1 + rule, .rule = rule };
	struct {
		struct mcr_rec_output outputs[OUTPUTS];
		struct mcr_flow room;
	} tail;
	struct mcr_rec_output *outputs = tail.outputs;
	uint32_t unkept = takes_ipv6(rule) ? MCR_KEEP_ORIGIN : 0; /* all outputs are of IPv4 */

	head.flow = mcr_flow_ipv4(rule % CAPTURES, 0, 0, htonl(0xef010100 + rule), htons((uint16_t)(5000 + rule)));
	head.output_count = (uint16_t)(rule % (OUTPUTS + 1));
	for (uint32_t i = 0; i < head.output_count; i++)
		outputs[i] = (struct mcr_rec_output){
			.tag = head.tag,
			.output = rule * OUTPUTS + i,
			.egress = i,
			.address = htonl(0xef020200 + i),
			.source = rnd(4) && may_be_raw(i) ? htonl(0xc6120002) : 0,
			.port = htons((uint16_t)(PORT + rule * OUTPUTS + i)),
			.max_train = (uint16_t)(2 + rnd(MCR_TRAIN_MAX - 1)),
			.no_carrier = !rnd(8),
			.ttl = rnd(2) ? 8 : 0,
			.service = rnd(2) ? 0xb8 : 0,
			.keeps = rnd(2) ? (uint8_t)(rnd(may_be_raw(i) ? 8 : 32) & ~unkept) : 0,
			.asked_source = rnd(8) ? 0 : htonl(0xc6120003),
		};
	for (uint32_t i = 0; i < head.output_count; i++)
		if (outputs[i].keeps & MCR_KEEP_ORIGIN)
			outputs[i].max_train = 1;
	name_sources(&head, (struct mcr_flow *)(outputs + head.output_count));
	name_ipv6(&head, (struct mcr_flow *)(outputs + head.output_count));
	CHECK(!mcr_rules_put(&worker->rules, worker->segment, &head, outputs));
	CHECK(worker->rules.match.unused <= MCR_MAX_RULES + RULES);
	memset(&worker->refusals.outputs[rule * OUTPUTS], 0, OUTPUTS * sizeof(*worker->refusals.outputs));
}

#endif
