// SPDX-License-Identifier: MIT
/*
 * Every raw frame is refused: nobody holds the other end of the wire. Each datagram leaves by the UDP socket instead, in
 * order, those of the batch in hand among them, and none is an error.
 *
 *	worker_refused PACKETS
 */
#include <signal.h>

#include "harness.h"

int main(int argc, char **argv)
{
	uint64_t packets = argc > 1 ? strtoull(argv[1], NULL, 10) : 0, sent, all = 0;
	struct harness h;
	pthread_t thread;

	CHECK(packets);
	signal(SIGPIPE, SIG_IGN);
	harness_open(&h);
	send_raw(&h, WIDE);
	close(h.wire[1]);
	h.wire[1] = -1;
	tell_everything(&h, 1);
	sent = start_full(&h, packets, &thread);
	while (sent < packets) {
		sent += produce_or_yield(&h, sent);
		all = receive_in_order(&h, all);
	}
	stop_worker(&h, thread);
	all = await_in_order(&h, all, packets);

	CHECK(all == packets && h.segment->totals.errors == 0);
	check_identities(h.segment, packets);
	printf("%llu packets\n", (unsigned long long)packets);
	return 0;
}
