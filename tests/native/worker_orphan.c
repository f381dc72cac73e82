// SPDX-License-Identifier: MIT
/*
 * A predecessor died while it sent, and the capture that it read has gone since. The next one in its slot is another:
 * everything that comes in by that leaves, and nothing is in doubt.
 *
 * Or it died while it wrote counters, and so did the next one, as soon as other rules had those. They count from zero.
 *
 *	worker_orphan
 */
#include "harness.h"
#include "journal.h"

#define PACKETS 40
#define SLOT    1
#define RULE    5 /* as tell_everything() has it */
#define TAG     7
#define FORMER  1000

/* Wait until the worker forwards by a generation. */
static void await(struct harness *h, uint64_t generation)
{
	struct mcr_ring_end events;
	uint64_t body[16] = { 0 };
	uint32_t type = MCR_REC_PAD;

	mcr_ring_open_consumer(&events, &h->segment->event_ring, h->segment->event_data, MCR_EVENT_RING_BYTES);
	do {
		int size = mcr_ring_pop(&events, &type, body, sizeof(body));

		CHECK(size >= 0 || size == -ENOENT);
		if (size < 0)
			poll(&(struct pollfd){ .fd = h->event_fd, .events = POLLIN }, 1, 1);
	} while (type != MCR_REC_ACK || body[0] != generation);
}

static void gone_while_sending(void)
{
	struct mcr_rec_capture old = { 0 }, fresh = { .capture = SLOT, .frame_size = SLOT_BYTES, .frame_count = SLOTS };
	struct {
		struct mcr_rec_rule head;
		struct mcr_rec_output output;
	} rule = { .head = { .tag = 7, .rule = 5, .flow = flow_by(SLOT), .output_count = 1 } };
	struct mcr_rec_generation second = { 2 };
	struct sockaddr_in to;
	socklen_t size = sizeof(to);
	struct harness h;
	pthread_t thread;

	harness_open(&h);
	mcr_journal_enter(h.segment, (struct mcr_journal_state){ MCR_PHASE_SENDING, SLOT, PACKETS / 2 });
	tell_everything(&h, 1);
	CHECK(getsockname(h.receiver, (struct sockaddr *)&to, &size) == 0);
	rule.output = (struct mcr_rec_output){
		.tag = 7,
		.output = 9,
		.egress = 3,
		.address = to.sin_addr.s_addr,
		.port = to.sin_port,
		.max_train = 16,
	};
	command(&h, MCR_REC_CAPTURE_DROP, &old, sizeof(old));
	send_descriptor(h.channel, h.ring_fd);
	command(&h, MCR_REC_CAPTURE_PUT, &fresh, sizeof(fresh));
	command(&h, MCR_REC_RULE_PUT, &rule, sizeof(rule));
	command(&h, MCR_REC_GENERATION, &second, sizeof(second));
	CHECK(pthread_create(&thread, NULL, worker_thread, &h) == 0);
	await(&h, 2);
	for (uint64_t sent = 0; sent < PACKETS; sent++)
		CHECK(produce(&h, sent));
	stop_worker(&h, thread);
	CHECK(h.segment->captures[SLOT].recv == PACKETS && h.segment->totals.sent == PACKETS);
	CHECK(h.segment->totals.in_doubt == 0);
}

static void gone_while_counting(void)
{
	struct harness h;
	pthread_t thread;

	harness_open(&h);
	mcr_journal_note(h.segment, &h.segment->rules[RULE].matched, FORMER);
	mcr_journal_note(h.segment, &h.segment->totals.matched, FORMER);
	mcr_journal_enter(h.segment, (struct mcr_journal_state){ MCR_PHASE_COMMIT, SLOT, PACKETS / 2 });
	tell_nothing(&h);
	CHECK(pthread_create(&thread, NULL, worker_thread, &h) == 0);
	stop_worker(&h, thread);
	CHECK(h.segment->rules[RULE].matched == FORMER && h.segment->totals.matched == FORMER);
	h.segment->rules[RULE] = (struct mcr_rule_counters){ .tag = TAG }; /* as far as it came */
	tell_everything(&h, 1);
	CHECK(pthread_create(&thread, NULL, worker_thread, &h) == 0);
	await(&h, 1);
	for (uint64_t sent = 0; sent < PACKETS; sent++)
		CHECK(produce(&h, sent));
	stop_worker(&h, thread);
	CHECK(h.segment->rules[RULE].matched == PACKETS);
	CHECK(h.segment->totals.matched == FORMER + PACKETS);
}

int main(void)
{
	gone_while_sending();
	gone_while_counting();
	printf("%d packets, twice\n", PACKETS);
	return 0;
}
