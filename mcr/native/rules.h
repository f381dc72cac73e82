/* SPDX-License-Identifier: MIT */
/* The rules a worker holds: match table, rules, outputs. Changed by commands alone; packets only read them. */
#ifndef MCR_RULES_H
#define MCR_RULES_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "match.h"
#include "shm_abi.h"

#define MCR_NO_OUTPUT UINT32_MAX

union mcr_sent_to {
	struct sockaddr_in to;
	struct sockaddr_in6 to6; /* if that is its family */
};

struct mcr_output {
	union mcr_sent_to at;     /* of a range, the first group and port */
	uint32_t source;          /* of raw frames to it, IPv4, network byte order; 0: they may not be sent */
	uint32_t egress;          /* slot of the sockets that it is sent by */
	uint32_t next;            /* the rule's next output, or MCR_NO_OUTPUT */
	uint16_t port;            /* that it goes to, network byte order */
	uint16_t vlan;            /* of its frames, which are raw then or don't leave; 0: no tag */
	uint16_t source_port;     /* of what has its headers from here, network byte order; 0: the interface's */
	uint16_t max_train;       /* datagrams in one sendmsg; 1: no trains */
	uint8_t ttl;              /* hop limit; 0: the usual one */
	uint8_t service;          /* DSCP */
	uint8_t keeps;            /* MCR_KEEP_…, of the headers that a datagram came with */
	bool no_carrier;          /* its interface has none: the kernel would drop what it takes, and call it sent */
	uint32_t asked_source[4]; /* of others, network byte order, of IPv4 the first; that is 0: IP chooses it */
};

static inline bool mcr_output_is_ipv6(const struct mcr_output *output)
{
	return output->at.to.sin_family == AF_INET6;
}

struct mcr_rules {
	struct mcr_match match;
	struct mcr_output outputs[MCR_MAX_OUTPUTS];
};

void mcr_rules_init(struct mcr_rules *rules);

/*
 * Add a rule, or put it in the place of what its slot holds. Its further flows stand behind its outputs. Counters in
 * `segment` go on if they bear the tag already: those of a rule or output that stays, and all for the successor of a
 * dead worker. Others start at zero.
 * 0, -EINVAL for a slot out of range or a flow that no packet can have, -ENOSPC for a full table.
 */
int mcr_rules_put(struct mcr_rules *rules, struct mcr_segment *segment, const struct mcr_rec_rule *record,
		  const struct mcr_rec_output *outputs);

/* 0, -EINVAL for a slot out of range, -ENOENT for one that holds no rule. */
int mcr_rules_drop(struct mcr_rules *rules, const struct mcr_rec_rule *record);

#endif
