// SPDX-License-Identifier: MIT
#include "message.h"

#include <arpa/inet.h>
#include <netinet/udp.h>
#include <string.h>

#include "checksum.h"

/* There is room for each of them. */
static void add_option(struct msghdr *message, int level, int type, const void *value, size_t size)
{
	struct cmsghdr *option = (struct cmsghdr *)((char *)message->msg_control + message->msg_controllen);

	option->cmsg_len = CMSG_LEN(size);
	option->cmsg_level = level;
	option->cmsg_type = type;
	memcpy(CMSG_DATA(option), value, size);
	message->msg_controllen += CMSG_SPACE(size);
}

/* The address that IP is told to send it from, of IPv4 the first word of it; 0: IP chooses. */
static const uint32_t *source_of(const struct mcr_send *send, const struct mcr_output *output)
{
	return output->keeps & MCR_KEEP_SOURCE ? send->origin->address : output->asked_source;
}

static uint16_t source_port_of(const struct mcr_send *send, const struct mcr_output *output)
{
	return output->keeps & MCR_KEEP_PORT ? send->origin->port : output->source_port;
}

/* What the operator has asked for: ipv6(7) has the options. */
static void add_choices6(struct msghdr *message, const struct mcr_send *send, const struct mcr_output *output)
{
	const uint32_t *from = source_of(send, output);
	int hops = send->ttl, class = send->service;
	struct in6_pktinfo source = { 0 };

	if (hops)
		add_option(message, IPPROTO_IPV6, IPV6_HOPLIMIT, &hops, sizeof(hops));
	if (class)
		add_option(message, IPPROTO_IPV6, IPV6_TCLASS, &class, sizeof(class));
	memcpy(&source.ipi6_addr, from, sizeof(source.ipi6_addr));
	if (mcr_is_address(from, true))
		add_option(message, IPPROTO_IPV6, IPV6_PKTINFO, &source, sizeof(source));
}

static void add_choices(struct msghdr *message, const struct mcr_send *send, const struct mcr_output *output)
{
	struct in_pktinfo source = { .ipi_spec_dst.s_addr = *source_of(send, output) };
	int ttl = send->ttl, service = send->service;

	if (ttl)
		add_option(message, IPPROTO_IP, IP_TTL, &ttl, sizeof(ttl));
	if (service)
		add_option(message, IPPROTO_IP, IP_TOS, &service, sizeof(service));
	if (source.ipi_spec_dst.s_addr)
		add_option(message, IPPROTO_IP, IP_PKTINFO, &source, sizeof(source));
}

static uint16_t port_of(const struct mcr_send *send, const struct mcr_output *output)
{
	return htons((uint16_t)(ntohs(output->port) + send->ports));
}

/*
 * Where a send goes: where its output does, or to another group or port of the range that it has; that is put in `room`.
 * The first group of a prefix is 0 in the bits that tell them apart.
 */
static const union mcr_sent_to *destination_of(const struct mcr_send *send, const struct mcr_output *output,
					       union mcr_sent_to *room)
{
	if (!send->groups && !send->ports)
		return &output->at;
	if (mcr_output_is_ipv6(output)) {
		room->to6 = output->at.to6;
		room->to6.sin6_addr.s6_addr32[3] |= htonl(send->groups);
		if (room->to6.sin6_port) /* a raw socket gets none */
			room->to6.sin6_port = port_of(send, output);
	} else {
		room->to = output->at.to;
		room->to.sin_addr.s_addr |= htonl(send->groups);
		room->to.sin_port = port_of(send, output);
	}
	return room;
}

struct msghdr mcr_message_datagrams(const struct mcr_send *send, const struct mcr_output *output, union mcr_sent_to *to,
				    union mcr_message_options *options)
{
	struct msghdr message = {
		.msg_name = (void *)destination_of(send, output, to), /* the kernel reads it */
		.msg_namelen = mcr_output_is_ipv6(output) ? sizeof(output->at.to6) : sizeof(output->at.to),
		.msg_iov = send->payloads,
		.msg_iovlen = send->count,
		.msg_control = options,
	};
	uint16_t segment = (uint16_t)send->payloads->iov_len;

	if (send->count > 1) /* for a single datagram the option costs more than it gives */
		add_option(&message, SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment));
	if (send->ttl || send->service || mcr_is_address(source_of(send, output), mcr_output_is_ipv6(output)))
		(mcr_output_is_ipv6(output) ? add_choices6 : add_choices)(&message, send, output);
	return message;
}

/* One datagram whose UDP header is ours, by a raw socket (raw(7)). Its checksum in IPv6 the kernel does (IPV6_CHECKSUM). */
static struct msghdr headed(const struct mcr_send *send, const struct mcr_output *output, struct udphdr *udp,
			    union mcr_sent_to *to, union mcr_message_options *options, struct iovec *iov)
{
	const struct iovec *payload = send->payloads;
	struct msghdr message = mcr_message_datagrams(send, output, to, options);

	*udp = (struct udphdr){
		.source = source_port_of(send, output),
		.dest = port_of(send, output),
		.len = htons((uint16_t)(sizeof(*udp) + payload->iov_len)),
	};
	if (!mcr_output_is_ipv6(output))
		udp->check = mcr_checksum_of_udp((const uint8_t *)udp, payload->iov_base, (uint32_t)payload->iov_len,
						 *source_of(send, output),
						 destination_of(send, output, to)->to.sin_addr.s_addr);
	iov[0] = (struct iovec){ .iov_base = udp, .iov_len = sizeof(*udp) };
	iov[1] = *payload;
	message.msg_iov = iov;
	message.msg_iovlen = 2;
	return message;
}

/* `iov` has room for the headers and each payload. */
static struct msghdr frame(const struct mcr_send *send, const struct mcr_output *output,
			   const struct mcr_egress *egress, struct mcr_tagged_header *header, struct iovec *iov)
{
	union mcr_sent_to room;
	const union mcr_sent_to *to = destination_of(send, output, &room);
	struct mcr_raw_source from = egress->source;
	uint32_t size = 0;

	from.address = output->keeps & MCR_KEEP_SOURCE ? *send->origin->address : output->source;
	if (output->keeps & MCR_KEEP_PORT || output->source_port)
		from.port = source_port_of(send, output); /* none (0) is kept, too: RFC 768 */
	from.ttl = send->ttl ? send->ttl : IP_DEFAULT_MULTICAST_TTL;
	from.service = send->service;
	for (uint32_t i = 0; i < send->count; i++) {
		iov[1 + i] = send->payloads[i];
		size += (uint32_t)iov[1 + i].iov_len;
	}
	header->plain = mcr_raw_header(&from, &to->to, send->count, (uint32_t)send->payloads->iov_len, size);
	iov[0] = (struct iovec){ .iov_base = &header->plain, .iov_len = sizeof(header->plain) };
	if (send->vlan) {
		mcr_raw_tag(header, send->vlan);
		iov[0] = (struct iovec){ .iov_base = header, .iov_len = sizeof(*header) };
	}
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

	if (!send->raw && !send->origin) {
		handful->messages[i] = mcr_message_datagrams(send, output, &handful->destinations[i],
							     &handful->options[i]);
		return;
	}
	if (!send->raw) {
		handful->messages[i] = headed(send, output, &handful->udp[i], &handful->destinations[i],
					      &handful->options[i], &handful->iov[handful->iov_count]);
		handful->iov_count += 2;
		return;
	}
	handful->messages[i] = frame(send, output, &egress[output->egress], &handful->headers[i],
				     &handful->iov[handful->iov_count]);
	handful->iov_count += 1 + send->count;
}
