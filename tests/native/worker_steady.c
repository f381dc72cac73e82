// SPDX-License-Identifier: MIT
/*
 * A worker in a thread forwards everything the test puts into its ring, while its only other rule comes and goes.
 * For sanitizers: the whole loop runs, with both processes' ends of the rings in one address space.
 *
 *	worker_steady PACKETS [raw]
 */
#include "harness.h"

static void toggle_rule(struct harness *h, uint64_t turn)
{
	struct {
		struct mcr_rec_rule head;
		struct mcr_rec_output output;
	} rule = { 0 };
	struct mcr_rec_generation generation = { turn + 2 };
	uint64_t one = 1;

	rule.head = (struct mcr_rec_rule){ .tag = 100 + turn,
					   .rule = 6,
					   .flow = mcr_flow_ipv4(0, 0, 0, inet_addr("239.9.9.9"), htons(PORT)),
					   .output_count = turn % 2 ? 0 : 1 };
	rule.output = (struct mcr_rec_output){ .tag = 100 + turn, .output = 10, .egress = 3, .max_train = 1 };
	if (turn % 2)
		command(h, MCR_REC_RULE_DROP, &rule.head, sizeof(rule.head));
	else
		command(h, MCR_REC_RULE_PUT, &rule, sizeof(rule));
	command(h, MCR_REC_GENERATION, &generation, sizeof(generation));
	CHECK(write(h->wake_fd, &one, sizeof(one)) == sizeof(one));
}

static uint64_t drain_events(struct mcr_ring_end *events, uint64_t acknowledged)
{
	struct mcr_rec_log body;
	uint32_t type;
	int size;

	while ((size = mcr_ring_pop(events, &type, &body, sizeof(body))) != -ENOENT) {
		CHECK(size >= 0);
		if (type == MCR_REC_ACK) {
			struct mcr_rec_generation ack;

			memcpy(&ack, &body, sizeof(ack));
			CHECK(ack.generation > acknowledged);
			acknowledged = ack.generation;
		}
	}
	return acknowledged;
}

int main(int argc, char **argv)
{
	uint64_t packets = argc > 1 ? strtoull(argv[1], NULL, 10) : 0, sent, turn = 0, acknowledged = 0;
	uint8_t *seen = calloc(packets + 1, 1);
	struct mcr_ring_end events;
	pthread_t thread;
	struct harness h;

	CHECK(packets);
	harness_open(&h);
	if (argc > 2)
		send_raw(&h, WIDE);
	mcr_ring_open_consumer(&events, &h.segment->event_ring, h.segment->event_data, MCR_EVENT_RING_BYTES);
	tell_everything(&h, 1);
	h.segment->header.batch = MCR_BATCH_SLOTS; /* more than the ring has slots, and it begins full */
	sent = start_full(&h, packets, &thread);
	while (sent < packets) {
		sent += produce_or_yield(&h, sent);
		if (sent % 500 == 0 && acknowledged >= turn + 1)
			toggle_rule(&h, turn++);
		acknowledged = drain_events(&events, acknowledged);
		receive(&h, seen, packets);
	}
	stop_worker(&h, thread);
	receive(&h, seen, packets);
	check_identities(h.segment, packets);
	CHECK(h.segment->totals.errors == 0 && turn > 2);
	for (uint64_t i = 0; i < packets; i++)
		CHECK(seen[i] == 1);
	printf("%llu packets, %llu rule changes\n", (unsigned long long)packets, (unsigned long long)turn);
	free(seen);
	return 0;
}
