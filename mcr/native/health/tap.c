// SPDX-License-Identifier: MIT
#include "health/tap.h"

#include <errno.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "ring.h"
#include "shm_abi.h"

#define PAUSE_NS \
	20000000    /* between two looks: the ring holds a stream of a million RTP packets per second for longer */
#define AT_ONCE 256 /* records, before somebody else may ask */
#define WAIT_NS (MCR_SECOND_NS / 10)

struct mcr_tap {
	pthread_mutex_t lock; /* of the streams */
	uint32_t stopped;
	uint64_t page;
	uint64_t waited; /* when streams without datagrams were looked at last, ns */
	uint64_t *consumed;
	uint8_t *produced;           /* the position, and from the next page on what was produced, mapped twice */
	struct mcr_bpf_stream *told; /* the filter's side of the streams */
	struct mcr_stream *streams[MCR_MAX_RULES];
};

#define PRODUCED_BYTES(tap) ((tap)->page + UINT64_C(2) * MCR_BPF_RING_BYTES)
#define TOLD_BYTES          (MCR_MAX_RULES * sizeof(struct mcr_bpf_stream))

static void *map(int fd, uint64_t size, int access, uint64_t offset)
{
	void *mapped = mmap(NULL, size, access, MAP_SHARED, fd, (off_t)offset);

	return mapped == MAP_FAILED ? NULL : mapped;
}

struct mcr_tap *mcr_tap_open(const struct mcr_bpf_tap *maps)
{
	struct mcr_tap *tap = calloc(1, sizeof(*tap));

	if (!tap)
		return NULL;
	pthread_mutex_init(&tap->lock, NULL);
	tap->page = (uint64_t)sysconf(_SC_PAGESIZE);
	tap->consumed = map(maps->ring, tap->page, PROT_READ | PROT_WRITE, 0);
	tap->produced = map(maps->ring, PRODUCED_BYTES(tap), PROT_READ, tap->page);
	tap->told = map(maps->streams, TOLD_BYTES, PROT_READ | PROT_WRITE, 0);
	if (tap->consumed && tap->produced && tap->told)
		return tap;
	mcr_tap_close(tap);
	return NULL;
}

void mcr_tap_close(struct mcr_tap *tap)
{
	for (uint32_t i = 0; i < MCR_MAX_RULES; i++)
		free(tap->streams[i]);
	if (tap->consumed)
		munmap(tap->consumed, tap->page);
	if (tap->produced)
		munmap(tap->produced, PRODUCED_BYTES(tap));
	if (tap->told)
		munmap(tap->told, TOLD_BYTES);
	pthread_mutex_destroy(&tap->lock);
	free(tap);
}

int mcr_tap_begin(struct mcr_tap *tap, uint32_t number, uint32_t kind)
{
	struct mcr_stream *stream;

	if (number >= MCR_MAX_RULES)
		return -EINVAL;
	stream = calloc(1, sizeof(*stream));
	if (!stream)
		return -ENOMEM;
	stream->asked = stream->kind = kind;
	mcr_tap_end(tap, number);
	pthread_mutex_lock(&tap->lock);
	stream->begun = stream->count = mcr_load_relaxed(&tap->told[number].count);
	tap->told[number].keep = mcr_stream_needs(stream);
	tap->streams[number] = stream;
	pthread_mutex_unlock(&tap->lock);
	return 0;
}

void mcr_tap_end(struct mcr_tap *tap, uint32_t number)
{
	struct mcr_stream *stream;

	if (number >= MCR_MAX_RULES)
		return;
	pthread_mutex_lock(&tap->lock);
	stream = tap->streams[number];
	tap->streams[number] = NULL;
	pthread_mutex_unlock(&tap->lock);
	free(stream);
}

bool mcr_tap_read(struct mcr_tap *tap, uint32_t number, struct mcr_figures *figures)
{
	bool found;

	if (number >= MCR_MAX_RULES)
		return false;
	pthread_mutex_lock(&tap->lock);
	found = tap->streams[number];
	if (found)
		mcr_stream_tell(tap->streams[number], figures);
	pthread_mutex_unlock(&tap->lock);
	return found;
}

static void show(struct mcr_stream *stream, const struct mcr_bpf_seen *seen, uint32_t size)
{
	const void *payload = seen + 1;
	uint32_t told = size - (uint32_t)sizeof(*seen);

	if (seen->kept == MCR_BPF_BRIEF && told >= sizeof(struct mcr_bpf_brief) && seen->size <= MCR_BPF_KEPT)
		mcr_stream_take_brief(stream, seen->time, payload, seen->size);
	else if (seen->kept <= told)
		mcr_stream_take(stream, seen->time, payload, seen->size, seen->kept);
}

/*
 * One record. What was told of a stream before that had the number has lower counts. Two processors that count one stream
 * at the same time may give the same number twice.
 */
static void take(struct mcr_tap *tap, const struct mcr_bpf_seen *seen, uint32_t size)
{
	struct mcr_stream *stream = seen->stream < MCR_MAX_RULES ? tap->streams[seen->stream] : NULL;

	if (!stream || size < sizeof(*seen) || seen->count <= stream->begun)
		return;
	if (seen->count > stream->count + 1)
		mcr_stream_miss(stream, seen->count - stream->count - 1);
	if (seen->count > stream->count)
		stream->count = seen->count;
	show(stream, seen, size);
	tap->told[seen->stream].keep = mcr_stream_needs(stream);
}

/* Some records of the ring (<linux/bpf.h>, BPF_MAP_TYPE_RINGBUF). How many. */
static uint32_t read_some(struct mcr_tap *tap)
{
	uint64_t at = mcr_load_relaxed(tap->consumed), end = mcr_load_acquire((const uint64_t *)tap->produced);
	uint32_t count = 0;

	for (; at < end && count < AT_ONCE; count++) {
		const uint8_t *record = tap->produced + tap->page + at % MCR_BPF_RING_BYTES;
		uint32_t length = mcr_load_acquire32((const uint32_t *)record);

		if (length & BPF_RINGBUF_BUSY_BIT)
			break;
		if (!(length & BPF_RINGBUF_DISCARD_BIT))
			take(tap, (const struct mcr_bpf_seen *)(record + BPF_RINGBUF_HDR_SZ), length);
		length &= ~BPF_RINGBUF_DISCARD_BIT;
		at += (length + BPF_RINGBUF_HDR_SZ + 7u) & ~7u;
	}
	mcr_store_release(tap->consumed, at);
	return count;
}

/* All that was told has been read: what is missing now has been missing for a while. */
static void wait_for_more(struct mcr_tap *tap)
{
	uint64_t now = mcr_clock_ns(CLOCK_MONOTONIC);

	if (now - tap->waited < WAIT_NS)
		return;
	tap->waited = now;
	for (uint32_t i = 0; i < MCR_MAX_RULES; i++)
		if (tap->streams[i])
			mcr_stream_wait(tap->streams[i], now);
}

void mcr_tap_run(struct mcr_tap *tap)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	uint32_t count;

	while (!mcr_load_acquire32(&tap->stopped)) {
		pthread_mutex_lock(&tap->lock);
		count = read_some(tap);
		if (count < AT_ONCE)
			wait_for_more(tap);
		pthread_mutex_unlock(&tap->lock);
		if (count < AT_ONCE)
			clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
}

void mcr_tap_stop(struct mcr_tap *tap)
{
	mcr_store_release32(&tap->stopped, 1);
}
