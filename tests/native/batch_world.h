/* SPDX-License-Identifier: MIT */
/*
 * What batch_fuzz.c drives: a worker with rules and captures, and a kernel that fills its rings with whatever may come:
 * sound datagrams, those with one fault, and those that are made of chance.
 */
#ifndef BATCH_WORLD_H
#define BATCH_WORLD_H

#include <arpa/inet.h>
#include <linux/if_arp.h>
#include <linux/if_packet.h>
#include <netinet/udp.h>
#include <sys/mman.h>

#include "batch_rules.h"
#include "bpf/abi.h"
#include "clock.h"
#include "offload.h"
#include "worker.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define IS_READABLE(start, size) (!__asan_region_is_poisoned(start, size))
#else
#define ASAN_POISON_MEMORY_REGION(start, size)   ((void)(start), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#define IS_READABLE(start, size)                 ((void)(start), (void)(size), true)
#endif

#define RING_SLOTS 64u
#define ROOM       (SLOT_BYTES - MAC_OFFSET)
#define CAPTURE_FD 1200
#define MAX_FRAME  66000u

/* What payloads are made of, over and over. */
static const uint8_t marks[][4] = { "GOOD", "BAD!", "WHAT" };
enum kind { SOUND, UNSOUND, CHANCE };

static const uint8_t own_mac[6] = { 2, 0, 0, 0, 0, 9 };

struct world {
	struct mcr_worker *worker;
	struct mcr_ring_end events;
	uint64_t produced[CAPTURES];
	uint8_t copy[sizeof(struct virtio_net_hdr) + MAX_FRAME]; /* of the newest frame longer than its slot */
	size_t copy_size;
	uint32_t held; /* rules, a bit each */
	uint64_t batches, frames;
	uint64_t owed; /* datagrams that have to have matched */
	uint64_t sent, bytes;
	uint64_t raw, common;           /* of these, by such sockets */
	uint64_t parts, parts6;         /* sound datagrams that came in fragments, of IPv4 and of IPv6 */
	uint32_t next[RULES * OUTPUTS]; /* by output: the first payload of the batch that may still leave by it */
};

/* A frame that is being made, and what the kernel says of it. */
struct draft {
	enum kind kind;
	uint8_t *frame; /* MAX_FRAME bytes */
	uint32_t size, header, payload, datagrams;
	struct virtio_net_hdr offload;
	struct sockaddr_ll link;
	uint32_t status;
};

static void *allocate(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

/* The worker. */

/* Between two batches: rules come and go, and a predecessor may have died. */
static void world_change(struct world *w)
{
	uint32_t rule = rnd(RULES);
	struct mcr_rec_rule head = { .rule = rule };

	w->worker->segment->header.batch = 1 + rnd(MCR_BATCH_SLOTS);
	w->worker->refusals.epoch += !rnd(4);
	w->worker->log.level[MCR_FACILITY_INGRESS] = w->worker->log.level[MCR_FACILITY_EGRESS] =
		rnd(8) ? MCR_LEVEL_ERROR : MCR_LEVEL_TRACE;
	if (!rnd(1024))
		mcr_reassembly_expire(&w->worker->reassembly, mcr_clock_ns(CLOCK_MONOTONIC) + 2 * MCR_REASSEMBLY_NS);
	if (rnd(4))
		return;
	if (w->held & 1u << rule) {
		CHECK(!mcr_rules_drop(&w->worker->rules, &head));
		w->held &= ~(1u << rule);
	} else {
		put_rule(w->worker, rule);
		w->held |= 1u << rule;
	}
}

static void open_captures(struct mcr_worker *worker)
{
	for (uint32_t i = 0; i < CAPTURES; i++) {
		worker->captures[i] = (struct mcr_capture){
			.fd = CAPTURE_FD,
			.slots = calloc(RING_SLOTS, SLOT_BYTES), /* the end is the end, for a sanitizer */
			.frame_size = SLOT_BYTES,
			.frame_count = RING_SLOTS,
			.offloads = i < DESCRIBED,
		};
		CHECK(worker->captures[i].slots);
	}
}

/* What comes from one source, to whatever rule; the time of one more is over. */
static void refuse(struct mcr_worker *worker)
{
	struct mcr_refusal flows[RULES + 1];

	for (uint32_t i = 0; i < RULES; i++)
		flows[i] = (struct mcr_refusal){
			.flow = mcr_flow_ipv4((uint16_t)(i % CAPTURES), 0, htonl(0xc6120007), htonl(0xef010100 + i),
					      htons((uint16_t)(5000 + i))),
			.until_ns = UINT64_MAX,
			.place = i,
		};
	flows[RULES] = flows[0];
	flows[RULES].until_ns = 1;
	CHECK(!mcr_refused_set(&worker->refused, flows, RULES + 1));
}

static struct world *world_open(uint64_t number)
{
	const struct mcr_rec_own_key own[] = {
		{ mcr_own_address(htonl(0xc6120002)), MCR_CAUSE_LOOP },
		{ mcr_own_address(htonl(0xc61200ff)), MCR_CAUSE_SOURCE },
		{ mcr_own_mac(own_mac), MCR_CAUSE_LOOP },
	};
	struct world *w = allocate(sizeof(*w));
	struct mcr_segment *segment = allocate(sizeof(*segment));

	seed(number);
	w->worker = allocate(sizeof(*w->worker));
	w->worker->segment = segment;
	mcr_ring_open_producer(&w->worker->events, &segment->event_ring, segment->event_data, MCR_EVENT_RING_BYTES);
	mcr_ring_open_consumer(&w->events, &segment->event_ring, segment->event_data, MCR_EVENT_RING_BYTES);
	mcr_log_init(&w->worker->log, &w->worker->events, &segment->totals.log_dropped);
	mcr_rules_init(&w->worker->rules);
	w->worker->refusals.epoch = 1;
	CHECK(!mcr_own_set(&w->worker->own, own, sizeof(own) / sizeof(*own)));
	refuse(w->worker);
	open_captures(w->worker);
	for (uint32_t rule = 0; rule < RULES; rule++)
		put_rule(w->worker, rule);
	w->held = (1u << RULES) - 1;
	world_change(w);
	return w;
}

static void world_close(struct world *w)
{
	for (uint32_t i = 0; i < CAPTURES; i++)
		free(w->worker->captures[i].slots);
}

/* Frames. */

static uint8_t *ip_of(const struct draft *d)
{
	return d->frame + ETHERNET;
}

static uint8_t *udp_of(const struct draft *d)
{
	return ip_of(d) + d->header;
}

static void sum_ip(const struct draft *d)
{
	sum_ip_header(ip_of(d), d->header);
}

static void sum_udp(const struct draft *d)
{
	uint32_t size = 8 + d->payload, sum;

	store16(udp_of(d) + 6, 0);
	sum = ~sum16(sum16(17 + size, ip_of(d) + 12, 8), udp_of(d), size) & 0xffff;
	store16(udp_of(d) + 6, sum ? sum : 0xffff);
}

/* A payload of this mark, again and again; by copies of itself, as a sanitizer looks at each access. */
static void fill(uint8_t *payload, const uint8_t *mark, uint32_t size)
{
	memcpy(payload, mark, size < 4 ? size : 4);
	for (uint32_t done = 4; done < size; done *= 2)
		memcpy(payload + done, payload, done < size - done ? done : size - done);
}

/* From a stranger, to a group's MAC: another host's only in the mark that this relay gives. */
static void set_link(struct draft *d)
{
	static const uint8_t types[] = { PACKET_HOST, PACKET_MULTICAST, PACKET_OTHERHOST };

	d->link = (struct sockaddr_ll){
		.sll_hatype = ARPHRD_ETHER,
		.sll_pkttype = types[rnd(3)],
		.sll_halen = rnd(8) ? 6 : 0,
		.sll_addr = { 2, 0, 0, 0, 0, 1 },
	};
}

/* Every checksum right. */
static void draft_datagram(struct draft *d, uint32_t rule)
{
	d->size = put_headers(d->frame, d->header, d->payload, (uint8_t)rule, 5000 + rule);
	fill(udp_of(d) + 8, marks[d->kind], d->payload);
	set_link(d);
	sum_ip(d);
	sum_udp(d);
}

/* One of many datagrams, whose checksums are left to be made; in parts of whole marks. */
static void merge(struct draft *d)
{
	uint32_t segment = 4 * (1 + rnd(32));

	d->offload = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					      .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4 };
	d->offload.gso_size = (uint16_t)segment;
	d->status |= TP_STATUS_CSUMNOTREADY;
	d->datagrams = d->payload ? (d->payload + segment - 1) / segment : 1;
	if (d->datagrams > MCR_FRAME_PAYLOADS && d->kind == SOUND)
		d->kind = CHANCE;
	store16(udp_of(d) + 6, rnd(65536));
}

/* A length or a field that no sound datagram has. */
static void misshape(struct draft *d)
{
	uint8_t *ip = ip_of(d);

	switch (rnd(5)) {
	case 0: /* a fragment: the first of its datagram, or one of a few */
		store16(ip + 6, 1u << rnd(14));
		store16(ip + 4, ip[6] & 0x20 ? 0x8000 + rnd(0x4000) : 0xc000 + rnd(100));
		break;
	case 1:
		store16(ip + 2, d->header + 9 + d->payload + rnd(1000));
		break;
	case 2:
		store16(udp_of(d) + 4, rnd(2) ? rnd(8) : 9 + d->payload + rnd(1000));
		break;
	case 3:
		ip[0] = (uint8_t)(rnd(2) ? 0x60 | d->header / 4 : 0x40 | rnd(5));
		break;
	default:
		ip[9] = 6;
	}
	sum_ip(d);
}

static void mistake_source(struct draft *d)
{
	static const uint8_t sources[][4] = { { 0, 1, 2, 3 },         { 127, 0, 0, 1 },    { 239, 1, 1, 1 },
					      { 255, 255, 255, 255 }, { 198, 18, 0, 255 }, { 198, 18, 0, 2 },
					      { 198, 18, 0, 7 } };

	if (rnd(4)) {
		memcpy(ip_of(d) + 12, sources[rnd(7)], 4);
		sum_ip(d);
		sum_udp(d);
	} else {
		d->link.sll_halen = sizeof(own_mac);
		memcpy(d->link.sll_addr, own_mac, sizeof(own_mac));
	}
}

/* In one thing it is not as it should be. */
static void spoil(struct draft *d)
{
	switch (rnd(6)) {
	case 0:
		ip_of(d)[rnd(2) ? 8 : 10] ^= (uint8_t)(1 + rnd(255)); /* TTL, checksum */
		break;
	case 1:
		d->frame[0] = 2;
		d->link.sll_pkttype = PACKET_OTHERHOST;
		break;
	case 2:
		ip_of(d)[18] ^= (uint8_t)(1 + rnd(255)); /* to a group that no rule wants */
		break;
	case 3:
		misshape(d);
		break;
	case 4:
		if (!d->offload.gso_type) {
			d->status &= ~(uint32_t)(TP_STATUS_CSUM_VALID | TP_STATUS_CSUMNOTREADY);
			sum_udp(d);
			udp_of(d)[7] ^= 0x55;
			if (!udp_of(d)[6] && !udp_of(d)[7]) /* which would be none */
				store16(udp_of(d) + 6, 0x101);
			break;
		}
		__attribute__((fallthrough));
	default:
		mistake_source(d);
	}
}

/* Nobody knows what becomes of it. */
static void scramble(struct draft *d)
{
	for (uint32_t i = rnd(6); i; i--)
		d->frame[rnd(2) ? rnd(d->size) : rnd(ETHERNET + d->header + 8)] = (uint8_t)rnd(256);
	if (!rnd(4))
		d->size = 1 + rnd(d->size);
	if (!rnd(4))
		d->offload = (struct virtio_net_hdr){ .flags = (uint8_t)rnd(256),
						      .gso_type = rnd(2) ? VIRTIO_NET_HDR_GSO_UDP_L4
									 : (uint8_t)rnd(256),
						      .gso_size = (uint16_t)(rnd(2) ? rnd(8) : rnd(65536)) };
	if (!rnd(4))
		d->link = (struct sockaddr_ll){ .sll_hatype = rnd(2) ? ARPHRD_LOOPBACK : (uint16_t)rnd(65536),
						.sll_pkttype = (uint8_t)rnd(8),
						.sll_halen = (uint8_t)rnd(256) };
}

static void make(struct world *w, uint32_t slot, struct draft *d)
{
	uint32_t rule = slot + CAPTURES * rnd((RULES - slot + CAPTURES - 1) / CAPTURES);

	d->kind = (enum kind)rnd(3);
	d->header = rnd(4) ? 20 : 20 + 4 * rnd(11);
	d->payload = slot < DESCRIBED && !rnd(32) ? rnd(64000) : rnd(8) ? rnd(200) * (rnd(8) > 0) : rnd(1473);
	d->datagrams = 1;
	d->offload = (struct virtio_net_hdr){ 0 };
	d->status = TP_STATUS_USER | (rnd(4) ? 0 : rnd(1u << 16));
	draft_datagram(d, rule);
	if (slot < DESCRIBED && (d->payload > 1472 || !rnd(4)))
		merge(d);
	else if (!rnd(4))
		store16(udp_of(d) + 6, 0);
	if (d->kind == UNSOUND)
		spoil(d);
	if (d->kind == CHANCE)
		scramble(d);
	if (d->size > ROOM && d->kind == SOUND)
		d->kind = CHANCE; /* there may be no copy */
	if (d->kind == SOUND && w->held & 1u << rule)
		w->owed += d->datagrams;
}

/* The rings. */

static void keep_copy(struct world *w, const struct draft *d)
{
	memcpy(w->copy, &d->offload, sizeof(d->offload));
	memcpy(w->copy + sizeof(d->offload), d->frame, d->size);
	w->copy_size = rnd(4) ? sizeof(d->offload) + d->size : 0;
}

/* What is behind the bytes captured is nobody's business. */
static void put(struct world *w, uint32_t slot, const struct draft *d)
{
	uint8_t *at = w->worker->captures[slot].slots + w->produced[slot]++ % RING_SLOTS * SLOT_BYTES;
	struct tpacket2_hdr *header = (struct tpacket2_hdr *)at;
	uint32_t kept = d->size < ROOM ? d->size : ROOM;

	ASAN_UNPOISON_MEMORY_REGION(at, SLOT_BYTES);
	CHECK(header->tp_status == TP_STATUS_KERNEL);
	header->tp_mac = MAC_OFFSET;
	header->tp_net = MAC_OFFSET + ETHERNET;
	header->tp_len = d->size;
	header->tp_snaplen = kept;
	if (slot >= DESCRIBED && d->kind == CHANCE && !rnd(8))
		header->tp_snaplen = MCR_BPF_CLIP + 1 + rnd(64); /* as the filter clips super-frames */
	memcpy(header + 1, &d->link, sizeof(d->link));
	memcpy(at + MAC_OFFSET - sizeof(d->offload), &d->offload, sizeof(d->offload));
	memcpy(at + MAC_OFFSET, d->frame, kept);
	if (d->size > ROOM)
		keep_copy(w, d);
	if (d->kind == CHANCE && !rnd(16)) { /* the kernel never writes this */
		header->tp_mac = (uint16_t)rnd(65536);
		header->tp_net = (uint16_t)rnd(65536);
		header->tp_len = rnd(2) ? rnd(UINT32_MAX) : kept;
		header->tp_snaplen = rnd(2) ? rnd(UINT32_MAX) : kept;
	} else {
		ASAN_POISON_MEMORY_REGION(at + MAC_OFFSET + kept, ROOM - kept);
	}
	mcr_store_release32(&header->tp_status, d->status);
	w->frames++;
}

#endif
