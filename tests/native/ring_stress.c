// SPDX-License-Identifier: MIT
/*
 * Sends records of every size through a ring as fast as it goes and checks each: none lost, torn or out of order.
 *
 *	ring_stress processes|threads RECORDS
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ring.h"

#define CAPACITY 65536u
#define MAX_BODY 200u

struct shared {
	struct mcr_ring ring;
	_Alignas(4096) uint8_t data[CAPACITY];
};

static struct shared *shared;
static uint64_t records;

static uint32_t body_size(uint64_t sequence)
{
	return 16 + (uint32_t)(sequence * 2654435761u >> 7) % (MAX_BODY - 16);
}

static uint8_t filler(uint64_t sequence, uint32_t at)
{
	return (uint8_t)(sequence * 31 + at);
}

static void produce(void)
{
	struct mcr_ring_end end;

	mcr_ring_open_producer(&end, &shared->ring, shared->data, CAPACITY);
	for (uint64_t sequence = 0; sequence < records; sequence++) {
		uint32_t size = body_size(sequence);
		uint8_t *body;

		while (!(body = mcr_ring_reserve(&end, 1 + sequence % 7, size))) {
			mcr_ring_publish(&end);
			sched_yield();
		}
		memcpy(body, &sequence, sizeof(sequence));
		for (uint32_t i = 8; i < size; i += 16)
			body[i] = filler(sequence, i);
		body[size - 1] = filler(sequence, size - 1);
		if (sequence % 3 == 0) /* some are published alone, some together */
			mcr_ring_publish(&end);
	}
	mcr_ring_publish(&end);
}

static void fail(const char *what, uint64_t sequence)
{
	fprintf(stderr, "record %llu: %s\n", (unsigned long long)sequence, what);
	exit(1);
}

static void check(const uint8_t *body, int size, uint32_t type, uint64_t sequence)
{
	uint32_t expected = body_size(sequence);
	uint64_t got;

	memcpy(&got, body, sizeof(got));
	if (got != sequence)
		fail("lost or out of order", sequence);
	if (type != 1 + sequence % 7 || (uint32_t)size != ((expected + 7) & ~7u))
		fail("wrong type or size", sequence);
	for (uint32_t i = 8; i < expected; i += 16)
		if (body[i] != filler(sequence, i) && i != expected - 1)
			fail("torn", sequence);
	if (body[expected - 1] != filler(sequence, expected - 1))
		fail("torn at its end", sequence);
}

static void consume(void)
{
	uint8_t body[MAX_BODY + 8];
	struct mcr_ring_end end;
	uint32_t type;

	mcr_ring_open_consumer(&end, &shared->ring, shared->data, CAPACITY);
	for (uint64_t sequence = 0; sequence < records;) {
		int size = mcr_ring_pop(&end, &type, body, sizeof(body));

		if (size == -ENOENT) {
			sched_yield();
			continue;
		}
		if (size < 0)
			fail("broken format", sequence);
		check(body, size, type, sequence++);
	}
	if (mcr_ring_pop(&end, &type, body, sizeof(body)) != -ENOENT)
		fail("one too many", records);
}

static void *produce_thread(void *arg)
{
	produce();
	return arg;
}

int main(int argc, char **argv)
{
	int status;

	if (argc != 3)
		return 2;
	records = strtoull(argv[2], NULL, 10);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!strcmp(argv[1], "threads")) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, produce_thread, NULL))
			return 1;
		consume();
		pthread_join(thread, NULL);
	} else {
		pid_t child = fork();

		if (child == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL); /* a consumer that found a fault has gone */
			produce();
			_exit(0);
		}
		consume();
		if (waitpid(child, &status, 0) != child || status)
			return 1;
	}
	printf("%llu records\n", (unsigned long long)records);
	return 0;
}
