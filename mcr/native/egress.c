// SPDX-License-Identifier: MIT
#include "egress.h"

void mcr_batch_add(struct mcr_batch *batch, struct mcr_rules *rules, uint32_t output, const uint8_t *payload,
		   uint32_t size)
{
	struct mcr_send *send = &batch->sends[batch->count++];

	send->output = output;
	send->payload = (struct iovec){ .iov_base = (void *)payload, .iov_len = size };
	send->message = (struct msghdr){
		.msg_name = &rules->outputs[output].to,
		.msg_namelen = sizeof(rules->outputs[output].to),
		.msg_iov = &send->payload,
		.msg_iovlen = 1,
	};
}
