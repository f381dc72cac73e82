// SPDX-License-Identifier: MIT
/*
 * Every raw frame is refused: nobody holds the other end of the wire. Each datagram leaves by the UDP socket instead, in
 * order, those of the batch in hand among them, and none is an error.
 *
 *	worker_refused PACKETS
 */
#include <poll.h>
#include <sched.h>
#include <signal.h>

#include "harness.h"

static void *worker(void *arg)
{
	return (void *)(intptr_t)run_worker(arg);
}

/* What has arrived, in order. How many there were in all. */
static uint64_t receive_all(struct harness *h, uint64_t expected)
{
	uint64_t sequence;

	while (recv(h->receiver, &sequence, sizeof(sequence), MSG_DONTWAIT) == sizeof(sequence))
		CHECK(sequence == expected++);
	return expected;
}

int main(int argc, char **argv)
{
	uint64_t packets = argc > 1 ? strtoull(argv[1], NULL, 10) : 0, sent = 0, all = 0;
	struct harness h;
	pthread_t thread;

	CHECK(packets);
	signal(SIGPIPE, SIG_IGN);
	harness_open(&h);
	send_raw(&h, WIDE);
	close(h.wire[1]);
	h.wire[1] = -1;
	tell_everything(&h, 1);
	while (sent < packets &&
	       produce(&h, sent)) /* the first batch is a whole one: several sends are refused together */
		sent++;
	CHECK(pthread_create(&thread, NULL, worker, &h) == 0);
	while (sent < packets) {
		if (produce(&h, sent))
			sent++;
		else
			sched_yield();
		all = receive_all(&h, all);
	}
	stop_worker(&h, thread);
	for (int i = 0; i < 5000 && (all = receive_all(&h, all)) < packets; i++) /* loopback may take its time */
		poll(&(struct pollfd){ .fd = h.receiver, .events = POLLIN }, 1, 1);

	CHECK(all == packets && h.segment->totals.errors == 0);
	check_identities(h.segment, packets);
	printf("%llu packets\n", (unsigned long long)packets);
	return 0;
}
