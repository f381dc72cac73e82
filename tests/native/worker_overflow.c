// SPDX-License-Identifier: MIT
/*
 * One rule with two outputs by one interface, in turn by its UDP socket and by its raw one, whose buffer holds but a
 * few frames: what one sendmmsg(2) takes ends midway. Each output gets what it is said to have got, in order.
 *
 *	worker_overflow PACKETS
 */
#include "harness.h"

#define UDP_OUTPUT 9
#define RAW_OUTPUT 10

/* In the place of the harness's rule. One datagram a send: what waits together leaves by one sendmmsg. */
static void put_two_outputs(struct harness *h)
{
	struct {
		struct mcr_rec_rule head;
		struct mcr_rec_output outputs[2];
	} rule = { 0 };
	struct mcr_rec_generation generation = { 2 };
	struct sockaddr_in to;
	socklen_t size = sizeof(to);

	CHECK(getsockname(h->receiver, (struct sockaddr *)&to, &size) == 0);
	rule.head = (struct mcr_rec_rule){ .tag = 7, .rule = 5, .flow = flow_by(0) };
	command(h, MCR_REC_RULE_DROP, &rule.head, sizeof(rule.head));
	rule.head.tag = 8;
	rule.head.output_count = 2;
	for (uint32_t i = 0; i < 2; i++)
		rule.outputs[i] = (struct mcr_rec_output){ .tag = 8,
							   .output = UDP_OUTPUT + i,
							   .egress = 3,
							   .address = to.sin_addr.s_addr,
							   .port = to.sin_port,
							   .max_train = 1 };
	rule.outputs[1].source = inet_addr("198.18.0.1");
	command(h, MCR_REC_RULE_PUT, &rule, sizeof(rule));
	command(h, MCR_REC_GENERATION, &generation, sizeof(generation));
}

/* Some, in order. How many there were. */
static uint64_t receive_some(struct harness *h, uint64_t *next)
{
	struct {
		struct mcr_raw_header header;
		uint64_t sequence;
	} __attribute__((packed)) frame;
	uint64_t count = 0;

	for (; recv(h->wire[1], &frame, sizeof(frame), MSG_DONTWAIT) == sizeof(frame); count++) {
		CHECK(frame.sequence >= *next);
		*next = frame.sequence + 1;
	}
	return count;
}

int main(int argc, char **argv)
{
	uint64_t packets = argc > 1 ? strtoull(argv[1], NULL, 10) : 0, sent, all = 0, some = 0, next = 0;
	const struct mcr_output_counters *udp, *raw;
	struct harness h;
	pthread_t thread;

	CHECK(packets);
	harness_open(&h);
	send_raw(&h, NARROW);
	tell_everything(&h, 1);
	put_two_outputs(&h);
	sent = start_full(&h, packets, &thread);
	while (sent < packets) {
		sent += produce_or_yield(&h, sent);
		all = receive_in_order(&h, all);
		if (sent % 100 == 0)
			some += receive_some(&h, &next);
	}
	stop_worker(&h, thread);
	all = await_in_order(&h, all, packets);
	some += receive_some(&h, &next);

	udp = &h.segment->outputs[UDP_OUTPUT];
	raw = &h.segment->outputs[RAW_OUTPUT];
	CHECK(all == packets && udp->sent == packets && udp->errors == 0);
	CHECK(some == raw->sent && raw->sent + raw->errors == packets && (raw->last_error & 0xffff) == EAGAIN);
	CHECK(raw->sent > 0 && raw->errors > 0 && raw->last_error >> 16 > 0);
	CHECK(udp->bytes == 8 * udp->sent && raw->bytes == 8 * raw->sent);
	CHECK(h.segment->totals.submitted == 2 * packets);
	CHECK(h.segment->totals.sent == udp->sent + raw->sent && h.segment->totals.errors == raw->errors);
	printf("%llu packets, %llu of them raw\n", (unsigned long long)packets, (unsigned long long)some);
	return 0;
}
