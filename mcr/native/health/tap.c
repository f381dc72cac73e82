// SPDX-License-Identifier: MIT
#include "health/tap.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "ring.h"
#include "shm_abi.h"

/*
 * Between two looks, for each slot of a ring. A datagram that is told whole takes 24 of them: the ring holds 100,000 per second
 * for longer. One of less than 24,000 slots does not, as it is looked at every PAUSE_LEAST_NS all the same.
 */
#define PAUSE_SLOT_NS  300
#define PAUSE_LEAST_NS (MCR_SECOND_NS / 100)
#define PAUSE_MOST_NS  (MCR_SECOND_NS / 25)
#define AT_ONCE        256 /* records, before somebody else may ask */
#define WAIT_NS        (MCR_SECOND_NS / 10)

/*
 * What is younger waits for the next look. By then what other processors told before it can be seen, and all of it: their
 * writes get here within microseconds, on some machines in another order.
 */
#define SETTLE_NS (MCR_SECOND_NS / 1000)

/* What is known of a stream's datagrams on one processor. */
struct counted {
	uint64_t read; /* up to this count they were told, or are known not to be */
	uint64_t came; /* a while ago */
};

/* What one processor tells. */
struct told {
	struct mcr_bpf_ring *ring;
	uint64_t at, end; /* slots: to be read now */
	uint64_t newest;  /* time of the last record that was read: what is older is of an earlier round of the ring */
	struct counted *counted;
};

struct mcr_tap {
	pthread_mutex_t lock; /* of the streams */
	uint32_t stopped;
	uint64_t waited; /* when streams without datagrams were looked at last, ns */
	uint64_t step;   /* bytes, from one ring to the next */
	uint32_t slots;  /* of each ring */
	uint32_t processors;
	uint8_t *rings;
	struct told *of_processors;
	struct told **unread;        /* of those that have told something */
	struct counted *counted;     /* of all processors */
	struct mcr_bpf_stream *told; /* the filter's side of the streams */
	struct mcr_stream *streams[MCR_MAX_RULES];
};

#define TOLD_BYTES (MCR_MAX_RULES * sizeof(struct mcr_bpf_stream))

static void *map(int fd, uint64_t size)
{
	void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return mapped == MAP_FAILED ? NULL : mapped;
}

struct mcr_tap *mcr_tap_open(const struct mcr_bpf_tap *maps)
{
	struct mcr_tap *tap = calloc(1, sizeof(*tap));

	if (!tap)
		return NULL;
	pthread_mutex_init(&tap->lock, NULL);
	tap->step = mcr_bpf_tap_step(maps);
	tap->slots = maps->slots;
	tap->processors = maps->processors;
	tap->unread = calloc(maps->processors, sizeof(*tap->unread));
	tap->of_processors = calloc(maps->processors, sizeof(*tap->of_processors));
	tap->counted = calloc((size_t)maps->processors * MCR_MAX_RULES, sizeof(*tap->counted));
	tap->rings = map(maps->rings, tap->step * tap->processors);
	tap->told = map(maps->streams, TOLD_BYTES);
	if (!tap->unread || !tap->of_processors || !tap->counted || !tap->rings || !tap->told) {
		mcr_tap_close(tap);
		return NULL;
	}
	for (uint32_t i = 0; i < tap->processors; i++) {
		tap->of_processors[i].ring = (struct mcr_bpf_ring *)(void *)(tap->rings + i * tap->step);
		tap->of_processors[i].counted = tap->counted + (size_t)i * MCR_MAX_RULES;
	}
	return tap;
}

void mcr_tap_close(struct mcr_tap *tap)
{
	for (uint32_t i = 0; i < MCR_MAX_RULES; i++)
		free(tap->streams[i]);
	free(tap->unread);
	free(tap->of_processors);
	free(tap->counted);
	if (tap->rings)
		munmap(tap->rings, tap->step * tap->processors);
	if (tap->told)
		munmap(tap->told, TOLD_BYTES);
	pthread_mutex_destroy(&tap->lock);
	free(tap);
}

/* What has come so far is nothing of a stream that begins. */
static void begin_counts(struct mcr_tap *tap, struct mcr_stream *stream, uint32_t number)
{
	stream->astray = mcr_load_relaxed(&tap->told[number].astray);
	for (uint32_t i = 0; i < tap->processors; i++) {
		struct told *told = &tap->of_processors[i];
		uint64_t count = mcr_load_relaxed(&told->ring->counts[number]);

		told->counted[number] = (struct counted){ .read = count, .came = count };
	}
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
	begin_counts(tap, stream, number);
	tap->told[number].number = number;
	mcr_store_release32(&tap->told[number].keep, mcr_stream_needs(stream));
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
	tap->told[number].keep = 0;
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

/* A processor that was held up in the middle of a record may tell of it late: for the stream no time goes back. */
static void show(struct mcr_stream *stream, const struct mcr_bpf_seen *seen, uint32_t size)
{
	uint64_t newest = stream->gaps.newest, time = seen->time > newest ? seen->time : newest;
	uint32_t told = size - (uint32_t)sizeof(*seen);
	const void *payload = seen + 1;

	if (seen->kept == MCR_BPF_BRIEF && seen->slots && seen->size <= MCR_BPF_KEPT)
		mcr_stream_take_brief(stream, time, payload, seen->size, told >= sizeof(struct mcr_bpf_brief));
	else if (seen->kept <= told)
		mcr_stream_take(stream, time, payload, seen->size, seen->kept);
}

/* One record. What was told of a stream before that had the number has lower counts, and so has what came too late. */
static void take(struct mcr_tap *tap, struct told *told, const struct mcr_bpf_seen *seen)
{
	struct mcr_stream *stream = seen->stream < MCR_MAX_RULES ? tap->streams[seen->stream] : NULL;
	struct counted *counted;
	uint32_t needs;

	if (!stream)
		return;
	counted = &told->counted[seen->stream];
	if (seen->count <= counted->read)
		return;
	if (seen->count > counted->read + 1)
		mcr_stream_miss(stream, seen->count - counted->read - 1);
	counted->read = seen->count;
	show(stream, seen, seen->slots * MCR_BPF_SLOT);
	needs = mcr_stream_needs(stream);
	if (tap->told[seen->stream].keep != needs)
		tap->told[seen->stream].keep = needs;
}

static const struct mcr_bpf_seen *record_at(const struct mcr_tap *tap, const struct told *told)
{
	const uint8_t *slot = told->ring->slots + (told->at & (tap->slots - 1)) * MCR_BPF_SLOT;

	return (const struct mcr_bpf_seen *)(const void *)slot;
}

/* The processors that have told something. How many. */
static uint32_t find_unread(struct mcr_tap *tap)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < tap->processors; i++) {
		struct told *told = &tap->of_processors[i];

		told->end = mcr_load_acquire(&told->ring->produced);
		if (told->at != told->end)
			tap->unread[count++] = told;
	}
	return count;
}

/* Of its next record; UINT64_MAX: there is none. */
static uint64_t next_time(const struct mcr_tap *tap, const struct told *told)
{
	uint64_t time = told->at == told->end ? 0 : record_at(tap, told)->time;

	return time && time >= told->newest ? time : UINT64_MAX;
}

/* The one whose next record is the oldest, if it is old enough. `next`: how old that of any other is. */
static struct told *find_oldest(struct mcr_tap *tap, uint32_t count, uint64_t *next)
{
	struct told *oldest = NULL;
	uint64_t least = *next;

	for (uint32_t i = 0; i < count; i++) {
		struct told *each = tap->unread[i];
		uint64_t time = next_time(tap, each);

		if (time < least) {
			*next = least;
			least = time;
			oldest = each;
		} else if (time < *next) {
			*next = time;
		}
	}
	return oldest;
}

/* Read the next record of a processor, and what follows it before this time. How many. */
static uint32_t read_ring(struct mcr_tap *tap, struct told *told, uint64_t before, uint32_t most)
{
	uint32_t count = 0;

	do {
		const struct mcr_bpf_seen *seen = record_at(tap, told);

		take(tap, told, seen);
		told->newest = seen->time;
		told->at += seen->slots;
	} while (++count < most && next_time(tap, told) < before);
	mcr_store_release(&told->ring->consumed, told->at);
	return count;
}

/* Some of what was told before this time, in the order in which it was told. How many records. */
static uint32_t read_some(struct mcr_tap *tap, uint64_t before)
{
	uint32_t unread = find_unread(tap), count = 0;

	while (count < AT_ONCE) {
		uint64_t next = before;
		struct told *oldest = find_oldest(tap, unread, &next);

		if (!oldest)
			break;
		count += read_ring(tap, oldest, next, AT_ONCE - count);
	}
	return count;
}

/* What came of a stream a while ago, by any processor, and was not told: no record may ever follow that shows it. */
static void find_untold(struct mcr_tap *tap, uint32_t number)
{
	for (uint32_t i = 0; i < tap->processors; i++) {
		struct told *told = &tap->of_processors[i];
		struct counted *counted = &told->counted[number];

		if (counted->came > counted->read) {
			mcr_stream_miss(tap->streams[number], counted->came - counted->read);
			counted->read = counted->came;
		}
		counted->came = mcr_load_relaxed(&told->ring->counts[number]);
	}
}

/* What came by a processor that has no ring. */
static void find_astray(struct mcr_stream *stream, const struct mcr_bpf_stream *told)
{
	uint64_t count = mcr_load_relaxed(&told->astray);

	if (count != stream->astray)
		mcr_stream_miss(stream, count - stream->astray);
	stream->astray = count;
}

/* All that was told has been read: what is missing now has been missing for a while. */
static void wait_for_more(struct mcr_tap *tap, uint64_t now)
{
	if (now - tap->waited < WAIT_NS)
		return;
	tap->waited = now;
	for (uint32_t i = 0; i < MCR_MAX_RULES; i++) {
		if (!tap->streams[i])
			continue;
		find_untold(tap, i);
		find_astray(tap->streams[i], &tap->told[i]);
		mcr_stream_wait(tap->streams[i], now);
	}
}

/* As long as may be: to wake costs more than to read some records. */
static struct timespec pause_of(const struct mcr_tap *tap)
{
	uint64_t pause = (uint64_t)tap->slots * PAUSE_SLOT_NS;

	if (pause < PAUSE_LEAST_NS)
		pause = PAUSE_LEAST_NS;
	return (struct timespec){ .tv_nsec = (long)(pause < PAUSE_MOST_NS ? pause : PAUSE_MOST_NS) };
}

void mcr_tap_run(struct mcr_tap *tap)
{
	const struct timespec pause = pause_of(tap);
	uint32_t count;
	uint64_t now;

	while (!mcr_load_acquire32(&tap->stopped)) {
		pthread_mutex_lock(&tap->lock);
		now = mcr_clock_ns(CLOCK_MONOTONIC) - SETTLE_NS;
		count = read_some(tap, now);
		if (count < AT_ONCE)
			wait_for_more(tap, now);
		pthread_mutex_unlock(&tap->lock);
		if (count < AT_ONCE)
			clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
}

void mcr_tap_stop(struct mcr_tap *tap)
{
	mcr_store_release32(&tap->stopped, 1);
}
