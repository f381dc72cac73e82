/* SPDX-License-Identifier: MIT */
/*
 * Lock-free single-producer single-consumer ring of records, and all memory ordering of MCR.
 *
 * Acquire: no later access moves before this load. Release: no earlier access moves after this store. A load-acquire
 * that sees the value of a store-release sees everything written before that store. So the producer writes records,
 * then store-releases `tail`; the consumer load-acquires `tail`, reads them, then store-releases `head`; the producer
 * load-acquires `head` before it writes over what was read. Relaxed: the access is whole (no torn value), unordered;
 * counters are relaxed, for each has one writer and is read for its value alone.
 *
 * A process works through its private `struct mcr_ring_end`. Capacity and positions of the own side live there, so
 * that a peer that scribbles over the shared part can make the consumer return -EBADMSG, and nothing worse.
 */
#ifndef MCR_RING_H
#define MCR_RING_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "shm_abi.h"

static inline uint64_t mcr_load_acquire(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline uint32_t mcr_load_acquire32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void mcr_store_release(uint64_t *p, uint64_t value)
{
	__atomic_store_n(p, value, __ATOMIC_RELEASE);
}

static inline void mcr_store_release32(uint32_t *p, uint32_t value)
{
	__atomic_store_n(p, value, __ATOMIC_RELEASE);
}

static inline uint64_t mcr_load_relaxed(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void mcr_store_relaxed(uint64_t *p, uint64_t value)
{
	__atomic_store_n(p, value, __ATOMIC_RELAXED);
}

/* The kernel may add at the same time. */
static inline void mcr_add_shared(uint64_t *p, uint64_t value)
{
	__atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}

static inline uint32_t mcr_load_relaxed32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void mcr_store_relaxed32(uint32_t *p, uint32_t value)
{
	__atomic_store_n(p, value, __ATOMIC_RELAXED);
}

/* One process's end of a ring; never in shared memory. */
struct mcr_ring_end {
	struct mcr_ring *shared;
	uint8_t *data;
	uint64_t capacity; /* bytes, a power of two */
	uint64_t own;      /* producer: bytes reserved; consumer: bytes consumed */
	uint64_t seen;     /* newest known position of the other side */
};

/* Producer: take up where `shared` stands. What was reserved and not published is forgotten. */
static inline void mcr_ring_open_producer(struct mcr_ring_end *end, struct mcr_ring *shared, void *data,
					  uint64_t capacity)
{
	*end = (struct mcr_ring_end){ .shared = shared, .data = data, .capacity = capacity };
	end->own = mcr_load_relaxed(&shared->tail);
	end->seen = mcr_load_acquire(&shared->head);
}

/* Consumer: take up where `shared` stands. */
static inline void mcr_ring_open_consumer(struct mcr_ring_end *end, struct mcr_ring *shared, void *data,
					  uint64_t capacity)
{
	*end = (struct mcr_ring_end){ .shared = shared, .data = data, .capacity = capacity };
	end->own = mcr_load_relaxed(&shared->head);
	end->seen = end->own;
}

/* Largest body of a record, in bytes: a quarter of the ring less the record's head. */
static inline uint64_t mcr_ring_max_body(const struct mcr_ring_end *end)
{
	return end->capacity / 4 - sizeof(struct mcr_record);
}

static inline int mcr_ring_has_room(struct mcr_ring_end *end, uint64_t bytes)
{
	if (end->own + bytes - end->seen <= end->capacity)
		return 1;
	end->seen = mcr_load_acquire(&end->shared->head);
	return end->own + bytes - end->seen <= end->capacity;
}

/*
 * Producer: room for a record with `size` bytes of body, or NULL if the ring is full or the body larger than
 * mcr_ring_max_body(). The consumer sees it after mcr_ring_publish().
 */
static inline void *mcr_ring_reserve(struct mcr_ring_end *end, uint32_t type, uint64_t size)
{
	uint64_t at, to_end, length;
	struct mcr_record *record;

	if (size > mcr_ring_max_body(end))
		return NULL;
	length = (sizeof(*record) + size + 7) & ~(uint64_t)7;
	at = end->own & (end->capacity - 1);
	to_end = end->capacity - at;

	if (to_end < length) { /* records don't wrap: pad, start over */
		if (!mcr_ring_has_room(end, to_end + length))
			return NULL;
		record = (struct mcr_record *)(end->data + at);
		*record = (struct mcr_record){ .length = (uint32_t)to_end, .type = MCR_REC_PAD };
		end->own += to_end;
		at = 0;
	} else if (!mcr_ring_has_room(end, length)) {
		return NULL;
	}
	record = (struct mcr_record *)(end->data + at);
	*record = (struct mcr_record){ .length = (uint32_t)length, .type = type };
	end->own += length;
	return record + 1;
}

/*
 * Producer: reserve and fill whole records, which stand one after the other with their heads. How many of the `size`
 * bytes were taken: fewer where the ring is full, and never a part of a record.
 */
static inline uint64_t mcr_ring_reserve_all(struct mcr_ring_end *end, const uint8_t *records, uint64_t size)
{
	struct mcr_record head;
	uint64_t done = 0;
	void *room;

	while (done < size) {
		memcpy(&head, records + done, sizeof(head));
		room = mcr_ring_reserve(end, head.type, head.length - sizeof(head));
		if (!room)
			break;
		memcpy(room, records + done + sizeof(head), head.length - sizeof(head));
		done += head.length;
	}
	return done;
}

/* Producer: show the consumer everything reserved so far, at once. */
static inline void mcr_ring_publish(struct mcr_ring_end *end)
{
	mcr_store_release(&end->shared->tail, end->own);
}

/* Producer: reserve, copy and publish one record. 0, or -ENOSPC when it does not fit now. */
static inline int mcr_ring_push(struct mcr_ring_end *end, uint32_t type, const void *body, uint64_t size)
{
	void *room = mcr_ring_reserve(end, type, size);

	if (!room)
		return -ENOSPC;
	if (size)
		memcpy(room, body, size);
	mcr_ring_publish(end);
	return 0;
}

/* Consumer: what stands at the own position. Its length, 0 if nothing does, -EBADMSG if it can't be a record. */
static inline int mcr_ring_next(struct mcr_ring_end *end, const struct mcr_record **record)
{
	uint64_t at = end->own & (end->capacity - 1), waiting;
	uint32_t length;

	if (end->own == end->seen)
		end->seen = mcr_load_acquire(&end->shared->tail);
	waiting = end->seen - end->own;
	if (!waiting)
		return 0;
	*record = (const struct mcr_record *)(end->data + at);
	length = mcr_load_relaxed32(&(*record)->length);
	if (waiting > end->capacity || length < sizeof(**record) || length % 8 || length > waiting ||
	    length > end->capacity - at)
		return -EBADMSG;
	return (int)length;
}

/*
 * Consumer: the next record in *record, which stays valid until mcr_ring_consume(). Its length, 0 if the ring is
 * empty, or -EBADMSG if the producer broke the format. The length is read once: a peer may change it any time.
 */
static inline int mcr_ring_peek(struct mcr_ring_end *end, const struct mcr_record **record)
{
	int length;

	length = mcr_ring_next(end, record);
	if (length <= 0 || (*record)->type != MCR_REC_PAD)
		return length;
	end->own += (uint64_t)length;
	length = mcr_ring_next(end, record);
	/* A sound producer writes a record behind its padding, and publishes both together. */
	return length > 0 && (*record)->type != MCR_REC_PAD ? length : -EBADMSG;
}

/* Consumer: give back the room of the peeked record; `length` is what mcr_ring_peek() returned. */
static inline void mcr_ring_consume(struct mcr_ring_end *end, int length)
{
	end->own += (uint64_t)length;
	mcr_store_release(&end->shared->head, end->own);
}

/*
 * Consumer: copy the next record's body out and consume it. The size of the body, with the record's type in *type;
 * -ENOENT if the ring is empty, -EBADMSG as in mcr_ring_peek(), -EMSGSIZE if the body exceeds `room` (it is skipped).
 */
static inline int mcr_ring_pop(struct mcr_ring_end *end, uint32_t *type, void *body, uint64_t room)
{
	const struct mcr_record *record;
	int length = mcr_ring_peek(end, &record), size = length - (int)sizeof(*record);

	if (length < 0)
		return length;
	if (length == 0)
		return -ENOENT;
	*type = record->type;
	if ((uint64_t)size <= room)
		memcpy(body, record + 1, (size_t)size);
	else
		size = -EMSGSIZE;
	mcr_ring_consume(end, length);
	return size;
}

#endif
