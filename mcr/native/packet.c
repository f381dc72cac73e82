// SPDX-License-Identifier: MIT
#include "packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "flow.h"
#include "parse.h"

static int parse_ip(const uint8_t *data, uint32_t left, uint32_t *header, uint32_t *total)
{
	const struct mcr_ipv4 *ip = (const struct mcr_ipv4 *)data;
	int ret;

	if (left < sizeof(*ip))
		return -EMSGSIZE;
	ret = mcr_parse_ipv4(ip, header);
	if (ret)
		return ret;
	*total = ntohs(ip->total);
	if (*total < *header)
		return -EBADMSG;
	if (*total > left)
		return -EMSGSIZE;
	return mcr_is_fragment(ip) ? -EOPNOTSUPP : 0;
}

/* What is found behind the header of IPv6. */
struct chain {
	uint32_t at;      /* bytes from that header on */
	uint8_t protocol; /* of what stands there */
	bool refused;     /* IP drops it */
	bool part;        /* it is the first fragment */
};

static bool are_zero(const uint8_t *bytes, uint32_t count)
{
	while (count && !bytes[count - 1])
		count--;
	return !count;
}

/*
 * Whether IP drops a datagram for one of its options: nobody knows it, and its type says what to do then (RFC 8200, 4.2). Or
 * they go on behind their header, or are padded with what is not 0, or with more than Linux takes (RFC 4942, 2.1.9.5).
 */
static bool is_option_refused(const uint8_t *option, uint32_t left)
{
	uint32_t padding = 0;

	while (left) {
		uint32_t size = 1; /* of a single byte of padding */

		if (*option)
			size = left > 1 ? option[1] + 2u : 2;
		if (*option & MCR_IPV6_DROPS || size > left)
			return true;
		padding = *option > MCR_IPV6_PADN ? 0 : padding + size;
		if (padding > MCR_IPV6_PADDING || (*option == MCR_IPV6_PADN && !are_zero(option + 2, size - 2)))
			return true;
		option += size;
		left -= size;
	}
	return false;
}

/* Past one extension header. */
static int skip_extension(const uint8_t *ip, uint32_t total, struct chain *chain)
{
	const struct mcr_extension *header = (const struct mcr_extension *)(ip + chain->at);
	uint32_t left = total - chain->at, size;
	bool part;

	if (!mcr_is_extension(chain->protocol))
		return -EPROTONOSUPPORT;
	if (left < sizeof(*header))
		return -EBADMSG;
	part = mcr_is_ipv6_fragment(chain->protocol, header);
	if (part && !mcr_may_be_udp(header))
		return -EPROTONOSUPPORT;
	size = mcr_extension_bytes(chain->protocol, header);
	if (size > left || (part && chain->part))
		return -EBADMSG;
	if (part && !mcr_is_first_fragment(header))
		return -EOPNOTSUPP;
	chain->refused |= mcr_is_refused_extension(chain->protocol, chain->at == sizeof(struct mcr_ipv6));
	if (chain->protocol == IPPROTO_HOPOPTS || chain->protocol == IPPROTO_DSTOPTS)
		chain->refused |= is_option_refused(ip + chain->at + 2, size - 2);
	chain->part |= part;
	chain->at += size;
	chain->protocol = header->next;
	return 0;
}

/*
 * Bytes of the IPv6 header and those that follow, up to UDP's, and of the whole datagram. The first fragment has them all,
 * and UDP's (RFC 7112).
 */
static int parse_ipv6(const uint8_t *data, uint32_t left, uint32_t *header, uint32_t *total)
{
	const struct mcr_ipv6 *ip = (const struct mcr_ipv6 *)data;
	struct chain chain = { .at = sizeof(*ip) };
	int ret = 0;

	if (left < sizeof(*ip))
		return -EPROTONOSUPPORT; /* for all that is known */
	chain.protocol = ip->next;
	*total = (uint32_t)sizeof(*ip) + ntohs(ip->payload);
	if (chain.protocol == IPPROTO_UDP) { /* as in most */
		*header = sizeof(*ip);
		return *total > left ? -EMSGSIZE : 0;
	}
	for (int i = 0; i < MCR_IPV6_EXTENSIONS && chain.protocol != IPPROTO_UDP && !ret; i++)
		ret = skip_extension(data, *total < left ? *total : left, &chain);
	*header = chain.at;
	if (ret == -EPROTONOSUPPORT || (chain.protocol != IPPROTO_UDP && !mcr_is_extension(chain.protocol)))
		return -EPROTONOSUPPORT; /* also what is cut short: it is not the relay's to count */
	if (*total > left)
		return -EMSGSIZE;
	if (chain.refused)
		return -EBADMSG;
	if (ret)
		return ret;
	if (chain.protocol != IPPROTO_UDP || (chain.part && *total - *header < sizeof(struct mcr_udp)))
		return -EBADMSG;
	return chain.part ? -EOPNOTSUPP : 0;
}

static void note_ipv4(const struct mcr_ipv4 *ip, struct mcr_packet *packet)
{
	packet->family = MCR_FLOW_IPV4;
	packet->source = ip->source;
	packet->group = ip->destination;
	packet->ttl = ip->ttl;
	packet->service = ip->service;
}

static void note_ipv6(const struct mcr_ipv6 *ip, struct mcr_packet *packet)
{
	packet->family = MCR_FLOW_IPV6;
	memcpy(packet->source6, ip->source, sizeof(ip->source));
	memcpy(packet->group6, ip->destination, sizeof(ip->destination));
	packet->ttl = ip->hops;
	packet->service = (uint8_t)(ntohl(ip->class) >> 20);
}

int mcr_packet_parse(const uint8_t *frame, uint32_t size, uint32_t network, struct mcr_packet *packet)
{
	uint32_t header, total, udp_length;
	const struct mcr_udp *udp;
	bool is_ipv6;
	int ret;

	if (network > size)
		return -EBADMSG;
	is_ipv6 = network < size && mcr_is_ipv6((const struct mcr_ipv6 *)(frame + network));
	ret = (is_ipv6 ? parse_ipv6 : parse_ip)(frame + network, size - network, &header, &total);
	if (ret && ret != -EOPNOTSUPP)
		return ret;
	if (is_ipv6)
		note_ipv6((const struct mcr_ipv6 *)(frame + network), packet);
	else
		note_ipv4((const struct mcr_ipv4 *)(frame + network), packet);
	if (ret)
		return ret;
	if (total - header < sizeof(*udp))
		return -EBADMSG;
	udp = (const struct mcr_udp *)(frame + network + header);
	udp_length = ntohs(udp->length);
	if (udp_length < sizeof(*udp) || udp_length > total - header)
		return -EBADMSG;
	packet->port = udp->ports.destination;
	packet->source_port = udp->ports.source;
	packet->payload = network + header + (uint32_t)sizeof(*udp);
	packet->payload_size = udp_length - (uint32_t)sizeof(*udp);
	return 0;
}
