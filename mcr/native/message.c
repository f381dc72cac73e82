// SPDX-License-Identifier: MIT
#include "message.h"

#include <netinet/udp.h>
#include <string.h>

static void set_option(union mcr_train_option *option, size_t segment)
{
	uint16_t size = (uint16_t)segment;

	*option = (union mcr_train_option){ 0 };
	option->align.cmsg_len = CMSG_LEN(sizeof(size));
	option->align.cmsg_level = SOL_UDP;
	option->align.cmsg_type = UDP_SEGMENT;
	memcpy(CMSG_DATA(&option->align), &size, sizeof(size));
}

static struct msghdr datagrams(const struct mcr_send *send, struct mcr_output *output, union mcr_train_option *option)
{
	struct msghdr message = {
		.msg_name = &output->to,
		.msg_namelen = sizeof(output->to),
		.msg_iov = send->payloads,
		.msg_iovlen = send->count,
	};

	if (send->count > 1) { /* for a single datagram the option costs more than it gives */
		set_option(option, send->payloads->iov_len);
		message.msg_control = option->bytes;
		message.msg_controllen = sizeof(option->bytes);
	}
	return message;
}

/* `iov` has room for the headers and each payload. */
static struct msghdr frame(const struct mcr_send *send, const struct mcr_output *output,
			   const struct mcr_egress *egress, struct mcr_raw_header *header, struct iovec *iov)
{
	struct mcr_raw_source from = egress->source;
	uint32_t size = 0;

	from.address = output->source;
	for (uint32_t i = 0; i < send->count; i++) {
		iov[1 + i] = send->payloads[i];
		size += (uint32_t)iov[1 + i].iov_len;
	}
	*header = mcr_raw_header(&from, &output->to, send->count, (uint32_t)send->payloads->iov_len, size);
	iov[0] = (struct iovec){ .iov_base = header, .iov_len = sizeof(*header) };
	return (struct msghdr){ .msg_iov = iov, .msg_iovlen = 1 + send->count };
}

void mcr_messages_clear(struct mcr_messages *messages)
{
	messages->count = 0;
	messages->iov_count = 0;
}

bool mcr_messages_have_room(const struct mcr_messages *messages)
{
	return messages->count < MCR_MESSAGES && messages->iov_count + 1 + MCR_TRAIN_MAX <= MCR_MESSAGE_IOV;
}

void mcr_messages_add(struct mcr_messages *messages, const struct mcr_send *send, struct mcr_rules *rules,
		      const struct mcr_egress *egress)
{
	struct mcr_output *output = &rules->outputs[send->output];
	uint32_t i = messages->count++;

	messages->sends[i] = *send;
	if (!send->raw) {
		messages->messages[i] = datagrams(send, output, &messages->options[i]);
		return;
	}
	messages->messages[i] = frame(send, output, &egress[output->egress], &messages->headers[i],
				      &messages->iov[messages->iov_count]);
	messages->iov_count += 1 + send->count;
}
