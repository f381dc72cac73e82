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

static struct msghdr datagrams(const struct mcr_send *send, const struct mcr_output *output,
			       union mcr_train_option *option)
{
	struct msghdr message = {
		.msg_name = (void *)&output->to, /* the kernel reads it */
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

bool mcr_message_has_room(const struct mcr_handful *handful)
{
	return handful->count < MCR_MESSAGES && handful->iov_count + 1 + MCR_TRAIN_MAX <= MCR_MESSAGE_IOV;
}

void mcr_message_add(struct mcr_handful *handful, const struct mcr_rules *rules, const struct mcr_egress *egress)
{
	uint32_t i = handful->count++;
	const struct mcr_send *send = &handful->sends[i];
	const struct mcr_output *output = &rules->outputs[send->output];

	if (!send->raw) {
		handful->messages[i] = datagrams(send, output, &handful->options[i]);
		return;
	}
	handful->messages[i] = frame(send, output, &egress[output->egress], &handful->headers[i],
				     &handful->iov[handful->iov_count]);
	handful->iov_count += 1 + send->count;
}
