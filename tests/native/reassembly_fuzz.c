// SPDX-License-Identifier: MIT
/*
 * Fragments of IPv4 and IPv6, put together from frames in exactly sized buffers, beside another way to do it, byte by byte:
 * what one takes, drops or makes of them the other does. An input is fragments of six bytes each:
 *
 *	shape    1: IPv6, 6: identification, 8: another key, 16: the last one, 32: time passes, 192: headers in front
 *	place    of two bytes, in units of eight
 *	length   of the bytes, and one
 *	scale    7: the length doubles so many times, 8: in units of eight; 16: other bytes, 32: another VLAN
 *	service  3: ECN, 4: options behind the header of the fragment, 248: by which byte of the addresses the key is another
 *
 * Of a longer input the first MCR_REASSEMBLIES fragments are taken: none pushes out another.
 */
#include "guided.h"

#include <arpa/inet.h>
#include <errno.h>

#include "reassembly.h"

#define STEP  6u
#define STEPS MCR_REASSEMBLIES
#define ROOM  70000u

enum { IPV6 = 1, ANOTHER = 8, LAST = 16, LATER = 32 };
enum { EIGHTS = 8, OTHER = 16, VLAN = 32, OPTIONS = 4 };

#define OTHER_VLAN 7

static const uint32_t greatest = 65535;

struct fragment {
	uint32_t key, start, size, before, header;
	bool ipv6, last;
	uint8_t service, next;
	const uint8_t *bytes;
};

/* What is known of a datagram. */
struct datagram {
	bool waits, spoilt, ends, congested;
	uint32_t key, count, there, reach, before, by;
	uint8_t service, next;
	uint64_t since;
	uint8_t has[ROOM], bytes[ROOM];
};

static struct mcr_reassembly reassembly;
static struct datagram datagrams[STEPS], dones[STEPS]; /* one for each key; what was whole */
static uint32_t datagram_count, done_count, expected[MCR_CAUSES];
static uint64_t now;

/* Which byte of source and destination is another one, of so many. */
static uint32_t place_of_key(const uint8_t *step, uint32_t bytes)
{
	return (step[5] >> 3) % bytes;
}

static void put_ipv4(const uint8_t *step, uint8_t *ip, const struct fragment *f)
{
	ip[0] = (uint8_t)(0x40 | f->header / 4);
	ip[1] = f->service;
	store16(ip + 2, f->header + f->size);
	store16(ip + 4, step[0] >> 1 & 3);
	store16(ip + 6, f->start / 8 | (f->last ? 0 : 0x2000));
	ip[9] = 17;
	ip[12 + place_of_key(step, 8)] = step[0] & ANOTHER;
}

/* Options that nobody has to know (RFC 4727): as padding IP takes seven bytes alone. */
static void put_options(uint8_t *at, uint32_t size)
{
	for (uint32_t i = 0; i < size; i += 2u + at[i + 1]) {
		at[i] = 0x1e;
		at[i + 1] = (uint8_t)((size - i < 200 ? size - i : 200) - 2);
	}
}

/* With options for the destination in front, one of 1,600 bytes or up to two of eight. */
static void put_ipv6(const uint8_t *step, uint8_t *ip, const struct fragment *f)
{
	uint8_t *next = ip + 6, *at = ip + 40;

	ip[0] = 0x60;
	ip[1] = (uint8_t)(f->service << 4);
	store16(ip + 4, f->header - 40 + f->size);
	ip[8 + place_of_key(step, 32)] = step[0] & ANOTHER;
	while (at < ip + 40 + f->before) {
		*next = 60;
		next = at;
		at[1] = (uint8_t)(f->before > 16 ? f->before / 8 - 1 : 0);
		put_options(at + 2, 8u * at[1] + 6);
		at += 8u * (at[1] + 1);
	}
	*next = 44;
	at[0] = f->next;
	store16(at + 2, f->start | !f->last);
	at[7] = step[0] >> 1 & 3;
}

/* Fragments of a datagram have the same. */
static uint32_t key_of(const uint8_t *step)
{
	uint32_t place = step[0] & ANOTHER ? 1 + place_of_key(step, step[0] & IPV6 ? 32 : 8) : 0;

	return (step[0] & 7u) | (step[4] & VLAN ? 8u : 0) | place << 4;
}

/* Bytes of datagrams, by their place. */
static const uint8_t *pattern(bool other)
{
	static uint8_t made[2][2 * ROOM];

	for (uint32_t i = 0; !made[other][1] && i < 2 * ROOM; i++)
		made[other][i] = (uint8_t)(i * 7 + i / 256 + other);
	return made[other];
}

/* The frame of six bytes of an input, and what it is. Bytes of it. */
static uint32_t draw(const uint8_t *step, uint8_t *ip, struct fragment *f)
{
	uint32_t extra = step[0] >> 6, most;

	*f = (struct fragment){ .ipv6 = step[0] & IPV6, .key = key_of(step), .last = step[0] & LAST };
	f->start = 8 * ((step[1] | (uint32_t)step[2] << 8) & 0x1fff);
	f->size = (step[3] + !(step[4] & EIGHTS)) << (step[4] & 7) << (step[4] & EIGHTS ? 3 : 0);
	f->service = step[5] & 3;
	f->next = step[5] & OPTIONS ? 60 : 17;
	f->before = f->ipv6 ? 8 * (extra == 3 ? 200 : extra) : 20 + 4 * extra;
	f->header = f->ipv6 ? 40 + f->before + 8 : f->before;
	most = f->ipv6 ? greatest + 40 - f->header : greatest - f->header;
	f->size = f->size > most ? most : f->size;
	f->bytes = ip + f->header;
	memset(ip, 0, f->header);
	(f->ipv6 ? put_ipv6 : put_ipv4)(step, ip, f);
	memcpy(ip + f->header, pattern(step[4] & OTHER) + f->start, f->size);
	if (f->ipv6 && f->next == 60 && !f->start && f->size >= 8)
		memcpy(ip + f->header, "\21\0\1\4\0\0\0", 8);
	return f->header + f->size;
}

static bool is_copy(const struct datagram *d, const struct fragment *f)
{
	if (f->start + f->size > d->reach || memchr(d->has + f->start, false, f->size) ||
	    memcmp(d->bytes + f->start, f->bytes, f->size))
		return false;
	return !f->last || (d->ends && d->reach == f->start + f->size);
}

static bool contradicts(const struct datagram *d, const struct fragment *f)
{
	uint32_t end = f->start + f->size, reach = end > d->reach ? end : d->reach;

	if ((d->ends && end > d->reach) || (f->last && end < d->reach) || (f->last && d->ends && end != d->reach))
		return true;
	if ((f->start ? d->before : f->before) + reach > greatest)
		return true;
	return memchr(d->has + f->start, true, f->size);
}

static struct datagram *find(uint32_t key)
{
	uint32_t i = 0;

	while (i < datagram_count && datagrams[i].key != key)
		i++;
	if (i == datagram_count)
		datagrams[datagram_count++].key = key;
	return &datagrams[i];
}

static void begin(struct datagram *d)
{
	memset(d->has, 0, d->reach); /* of the one before */
	d->waits = true;
	d->spoilt = d->ends = d->congested = false;
	d->count = d->there = d->reach = d->before = 0;
	d->since = now;
}

static void keep_done(const struct datagram *d)
{
	struct datagram *done = &dones[done_count++];

	memcpy(done, d, offsetof(struct datagram, has));
	memset(done->has, true, d->reach);
	memcpy(done->bytes, d->bytes, d->reach);
}

/* What has to come of it: as mcr_reassembly_add(). */
static int add(const struct fragment *f)
{
	struct datagram *d = find(f->key);
	uint32_t end = f->start + f->size;

	if (!f->size || end + f->before > greatest || (!f->last && f->size % 8))
		return -EBADMSG;
	for (uint32_t i = 0; !d->waits && i < done_count; i++)
		if (dones[i].key == f->key && dones[i].by == f->start && now - dones[i].since < MCR_REASSEMBLY_NS &&
		    is_copy(&dones[i], f))
			return -EEXIST;
	if (!d->waits)
		begin(d);
	if (d->spoilt || is_copy(d, f))
		return -EEXIST;
	if (contradicts(d, f)) {
		d->spoilt = true;
		expected[MCR_CAUSE_FRAGMENT_OVERLAP] += d->count;
		d->count = 0;
		return -EEXIST;
	}
	memcpy(d->bytes + f->start, f->bytes, f->size);
	memset(d->has + f->start, true, f->size);
	if (!f->start) {
		d->before = f->before;
		d->service = f->service;
		d->next = f->next;
	}
	d->congested |= f->service == 3;
	d->ends |= f->last;
	d->reach = end > d->reach ? end : d->reach;
	d->there += f->size;
	d->count++;
	if (!d->ends || d->there < d->reach)
		return 0;
	d->waits = false;
	d->since = now;
	d->by = f->start;
	keep_done(d);
	return 1;
}

static void expire(void)
{
	for (uint32_t i = 0; i < datagram_count; i++) {
		if (!datagrams[i].waits || now - datagrams[i].since < MCR_REASSEMBLY_NS)
			continue;
		expected[MCR_CAUSE_FRAGMENT_INCOMPLETE] += datagrams[i].count;
		datagrams[i].waits = false;
	}
	mcr_reassembly_expire(&reassembly, now);
}

static uint32_t length_of(const uint8_t *ip, bool ipv6)
{
	return ipv6 ? 40 + ((uint32_t)ip[4] << 8 | ip[5]) : (uint32_t)ip[2] << 8 | ip[3];
}

static void check_whole(const struct mcr_frame *frame, bool ipv6)
{
	const struct datagram *d = &dones[done_count - 1];
	const uint8_t *ip = frame->data;
	uint32_t header = ipv6 ? 40 : 20, service = ipv6 ? ip[1] >> 4 & 3 : ip[1];
	struct mcr_packet packet;
	int ret;

	CHECK(frame->vlan == (d->key & 8 ? OTHER_VLAN : 0));
	CHECK(frame->ipv6 == ipv6 && frame->put_together && !frame->network && frame->size == header + d->reach);
	CHECK(ip[0] >> 4 == (ipv6 ? 6 : 4) && length_of(ip, ipv6) == frame->size);
	CHECK(service == (d->congested && d->service ? 3 : d->service));
	CHECK(!ipv6 || ip[6] == d->next);
	CHECK(!memcmp(ip + header, d->bytes, d->reach));
	ret = mcr_packet_parse(ip, frame->size, 0, &packet);
	CHECK(ret == 0 || ret == -EBADMSG);
	mcr_reassembly_release(&reassembly);
}

/* What the parser says. The first fragment has all headers: UDP's, and eight bytes of options if there are any. */
static void check_verdict(const struct fragment *f, int verdict)
{
	uint32_t headers = f->next == 60 ? 16 : 8;

	if (!f->start && f->last)
		CHECK(verdict == 0 || verdict == -EBADMSG);
	else if (f->ipv6 && !f->start && f->size < headers)
		CHECK(verdict == -EBADMSG);
	else
		CHECK(verdict == -EOPNOTSUPP);
}

static void take(const uint8_t *step, uint8_t *room)
{
	struct mcr_frame frame = { .vlan = step[4] & VLAN ? OTHER_VLAN : 0 };
	struct mcr_packet packet;
	struct fragment f;
	int verdict, wish;

	now += step[0] & LATER ? MCR_REASSEMBLY_NS / 3 : 1;
	expire();
	frame.size = draw(step, room, &f);
	frame.data = malloc(frame.size);
	CHECK(frame.data);
	memcpy((void *)frame.data, room, frame.size);
	verdict = mcr_packet_parse(frame.data, frame.size, 0, &packet);
	check_verdict(&f, verdict);
	if (verdict == -EOPNOTSUPP) {
		const uint8_t *copy = frame.data;

		wish = add(&f);
		CHECK(mcr_reassembly_has_room(&reassembly));
		CHECK(mcr_reassembly_add(&reassembly, 0, &packet, now, &frame) == wish);
		if (wish == 1)
			check_whole(&frame, f.ipv6);
		frame.data = copy;
	}
	free((void *)frame.data);
}

/* Everything that waits is given up, and every fragment has been counted once. */
static void end(void)
{
	struct mcr_totals totals = { 0 };

	for (uint32_t i = 0; i < datagram_count; i++) {
		expected[MCR_CAUSE_FRAGMENT_INCOMPLETE] += datagrams[i].waits ? datagrams[i].count : 0;
		datagrams[i].waits = false;
	}
	mcr_reassembly_give_up(&reassembly, 0);
	mcr_reassembly_collect(&reassembly, 0, &totals);
	for (uint32_t i = 0; i < MCR_CAUSES; i++)
		CHECK(totals.causes[i] == expected[i]);
	for (uint32_t i = 0; i < MCR_REASSEMBLIES; i++)
		CHECK(!reassembly.sent_by[i] && reassembly.partials[i].state == MCR_PARTIAL_FREE);
	CHECK(!reassembly.waiting && !reassembly.whole && !reassembly.losses && !reassembly.fragments[0]);
	memset(expected, 0, sizeof(expected));
	datagram_count = done_count = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t room[ROOM];

	now += 2 * MCR_REASSEMBLY_NS;
	for (uint32_t i = 0; i < STEPS && size >= STEP; i++, data += STEP, size -= STEP)
		take(data, room);
	end();
	return 0;
}
