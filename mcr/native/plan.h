/* SPDX-License-Identifier: MIT */
/*
 * The sends of one batch. Pure: plans, and sends nothing.
 *
 * Payloads of one rule that wait together leave in one send per output, as a train (a GSO batch): the kernel cuts it into
 * datagrams (UDP_SEGMENT, udp(7)). The payloads are sent from where they were received. Order within a rule is kept. All
 * payloads of a train have the size of the first, the last may be shorter.
 */
#ifndef MCR_PLAN_H
#define MCR_PLAN_H

#include "batch.h"
#include "egress.h"

/* Start to plan the sends of a batch that is complete. */
void mcr_plan_start(struct mcr_batch *batch);

/* The next send, in order. false: there are no more. */
bool mcr_plan_next(struct mcr_batch *batch, const struct mcr_rules *rules, const struct mcr_egress *egress,
		   const struct mcr_refusals *refusals, struct mcr_send *send);

#endif
