// SPDX-License-Identifier: MIT
#include "health/rtp.h"

#include <string.h>

#include "clock.h"

#define VERSION         2
#define EXTENDED        0x10
#define SOURCES         0x0f /* contributing ones, of four bytes each */
#define FIRST_RTCP      72   /* payload types that would be RTCP's packet types (RFC 5761) */
#define LAST_RTCP       76
#define DECIDE_NS       (MCR_SECOND_NS / 10)
#define CLOCK_NS        (2 * MCR_SECOND_NS) /* how long a clock is watched */
#define MAX_DROPOUT     3000                /* RFC 3550, A.1 */
#define DYNAMIC         96                  /* the first payload type without a clock of its own */
#define OUTAGE_SLACK_NS ((int64_t)MCR_SECOND_NS / 2)
#define CLOCK_TOLERANCE 100 /* a hundredth */

static uint16_t read16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t read32(const uint8_t *at)
{
	return (uint32_t)read16(at) << 16 | read16(at + 2);
}

bool mcr_rtp_read(struct mcr_rtp_packet *packet, const uint8_t *payload, uint32_t size, uint32_t kept)
{
	uint32_t end = MCR_RTP_HEADER;
	uint8_t type;

	if (size < end || kept < end || payload[0] >> 6 != VERSION)
		return false;
	type = payload[1] & 0x7f;
	if (type >= FIRST_RTCP && type <= LAST_RTCP)
		return false;
	end += 4u * (payload[0] & SOURCES);
	if (payload[0] & EXTENDED) {
		if (kept < end + 4)
			return false;
		end += 4u + 4u * read16(payload + end + 2);
	}
	if (size < end)
		return false;
	*packet = (struct mcr_rtp_packet){
		.source = read32(payload + 8),
		.timestamp = read32(payload + 4),
		.sequence = read16(payload + 2),
		.type = type,
		.size = end,
	};
	return true;
}

/* RFC 3551, table 4 and 5. */
static uint32_t clock_of(uint8_t type)
{
	static const uint32_t clocks[] = { 8000,  0,     0,    8000, 8000,  8000, 16000, 8000,  8000, 8000,
					   44100, 44100, 8000, 8000, 90000, 8000, 11025, 22050, 8000 };

	if (type < sizeof(clocks) / sizeof(*clocks))
		return clocks[type];
	return type < DYNAMIC ? 90000 : 0;
}

static bool is_seen(const struct mcr_rtp_source *source, uint64_t number)
{
	return source->seen[number % MCR_RTP_WINDOW / 64] >> number % 64 & 1;
}

static void set_seen(struct mcr_rtp_source *source, uint64_t number, bool seen)
{
	uint64_t *word = &source->seen[number % MCR_RTP_WINDOW / 64], bit = UINT64_C(1) << number % 64;

	*word = seen ? *word | bit : *word & ~bit;
}

/* What is missing up to this number does not come any more. */
static void decide(struct mcr_rtp *rtp, struct mcr_rtp_source *source, uint64_t number)
{
	while (source->decided < number)
		rtp->lost += !is_seen(source, ++source->decided);
}

static void settle(struct mcr_rtp *rtp, struct mcr_rtp_source *source, uint64_t now)
{
	if (now < source->mark + DECIDE_NS)
		return;
	decide(rtp, source, source->marked);
	source->marked = source->highest;
	source->mark = now;
}

/* Far from 0, so that the numbers before the first one are there. */
static void begin(struct mcr_rtp_source *source, uint64_t time, const struct mcr_rtp_packet *packet)
{
	uint64_t number = (UINT64_C(1) << 32) + packet->sequence;

	*source = (struct mcr_rtp_source){
		.held = true,
		.source = packet->source,
		.first = number,
		.highest = number,
		.decided = number,
		.marked = number,
		.mark = time,
		.type = packet->type,
		.clock = clock_of(packet->type),
		.timestamp = packet->timestamp,
		.clock_time = time,
		.clock_begun = packet->timestamp,
		.newest = time,
	};
	memset(source->seen, 0xff, sizeof(source->seen));
}

static void advance(struct mcr_rtp *rtp, struct mcr_rtp_source *source, uint32_t ahead)
{
	for (uint32_t i = 0; i < ahead; i++) {
		uint64_t number = source->highest + 1;

		if (number > MCR_RTP_WINDOW)
			decide(rtp, source, number - MCR_RTP_WINDOW); /* its place is needed */
		set_seen(source, number, false);
		source->highest = number;
	}
	set_seen(source, source->highest, true);
}

/* The clocks that are in use; a stream whose payload type says nothing has one of them. */
static uint32_t nearest_clock(uint64_t hertz)
{
	static const uint32_t clocks[] = { 8000,  11025, 16000, 22050, 24000, 32000,
					   44100, 48000, 88200, 90000, 96000, 192000 };

	for (uint32_t i = 0; i < sizeof(clocks) / sizeof(*clocks); i++) {
		uint64_t off = hertz > clocks[i] ? hertz - clocks[i] : clocks[i] - hertz;

		if (off * CLOCK_TOLERANCE <= clocks[i])
			return clocks[i];
	}
	return 0;
}

static void watch_clock(struct mcr_rtp_source *source, uint64_t time, const struct mcr_rtp_packet *packet)
{
	uint64_t elapsed = time - source->clock_time, ticks = packet->timestamp - source->clock_begun;

	if (elapsed < CLOCK_NS)
		return;
	source->clock = nearest_clock(ticks * MCR_SECOND_NS / elapsed);
	source->clock_time = time;
	source->clock_begun = packet->timestamp;
}

/* What time the media's clock has gone on by, ns. */
static int64_t media_time(const struct mcr_rtp_source *source, const struct mcr_rtp_packet *packet)
{
	int64_t ticks = (int32_t)(packet->timestamp - source->timestamp);

	return ticks * (int64_t)MCR_SECOND_NS / (int64_t)source->clock;
}

/* RFC 3550, 6.4.1, in nanoseconds. */
static void add_jitter(struct mcr_rtp_source *source, uint64_t time, const struct mcr_rtp_packet *packet)
{
	int64_t off;

	if (!source->clock) {
		watch_clock(source, time, packet);
	} else {
		off = (int64_t)(time - source->newest) - media_time(source, packet);
		source->jitter += (uint64_t)(off < 0 ? -off : off) - ((source->jitter + 8) >> 4);
	}
	source->timestamp = packet->timestamp;
}

static enum mcr_rtp_verdict take_behind(struct mcr_rtp *rtp, struct mcr_rtp_source *source, uint64_t number)
{
	if (number >= source->first && is_seen(source, number)) {
		rtp->duplicates++;
		return MCR_RTP_AGAIN;
	}
	set_seen(source, number, true);
	if (number > source->decided || number < source->first) /* it was never missed, or not yet */
		rtp->reordered++;
	else
		rtp->late++;
	return MCR_RTP_BEHIND;
}

/* From far away: numbers begin anew if the next one follows it (RFC 3550, A.1). */
static enum mcr_rtp_verdict take_stray(struct mcr_rtp *rtp, struct mcr_rtp_source *source, uint64_t time,
				       const struct mcr_rtp_packet *packet)
{
	if (!source->has_stray || source->stray != packet->sequence) {
		source->has_stray = true;
		source->stray = (uint16_t)(packet->sequence + 1);
		return MCR_RTP_BEHIND;
	}
	decide(rtp, source, source->highest);
	begin(source, time, packet);
	rtp->restarts++;
	return MCR_RTP_NEXT;
}

/* Whether so many packets may have been lost since the last one: if they are many, the media's clock has to say so, too. */
static bool is_plausible(const struct mcr_rtp_source *source, uint64_t time, const struct mcr_rtp_packet *packet,
			 int32_t ahead)
{
	uint64_t gap = time - source->newest;
	int64_t off;

	if (ahead <= MAX_DROPOUT)
		return true;
	if (!source->clock || (uint64_t)ahead * source->interval > 2 * gap)
		return false;
	off = media_time(source, packet) - (int64_t)gap;
	return off < OUTAGE_SLACK_NS && off > -OUTAGE_SLACK_NS;
}

static struct mcr_rtp_source *find(struct mcr_rtp *rtp, uint32_t source)
{
	for (uint32_t i = 0; i < MCR_RTP_SOURCES; i++) {
		struct mcr_rtp_source *each = &rtp->sources[(rtp->newest + i) % MCR_RTP_SOURCES];

		if (each->held && each->source == source)
			return each;
	}
	return NULL;
}

/* A place for another sender: a free one, or that of the one that has been silent longest. */
static struct mcr_rtp_source *make_room(struct mcr_rtp *rtp)
{
	struct mcr_rtp_source *oldest = &rtp->sources[0];

	for (uint32_t i = 1; i < MCR_RTP_SOURCES && oldest->held; i++)
		if (!rtp->sources[i].held || rtp->sources[i].newest < oldest->newest)
			oldest = &rtp->sources[i];
	if (oldest->held)
		decide(rtp, oldest, oldest->highest);
	return oldest;
}

static enum mcr_rtp_verdict take_next(struct mcr_rtp *rtp, struct mcr_rtp_source *source, uint64_t time,
				      const struct mcr_rtp_packet *packet)
{
	advance(rtp, source, (uint16_t)(packet->sequence - (uint16_t)source->highest));
	source->has_stray = false;
	source->interval += (time - source->newest) / 16 - source->interval / 16;
	add_jitter(source, time, packet);
	source->newest = time;
	return MCR_RTP_NEXT;
}

enum mcr_rtp_verdict mcr_rtp_take(struct mcr_rtp *rtp, uint64_t time, const struct mcr_rtp_packet *packet)
{
	struct mcr_rtp_source *source = find(rtp, packet->source);
	int32_t ahead;

	if (!source || source->resumes) {
		rtp->restarts += !source && rtp->packets;
		source = source ? source : make_room(rtp);
		begin(source, time, packet);
		rtp->newest = (uint32_t)(source - rtp->sources);
		rtp->packets++;
		return MCR_RTP_NEXT;
	}
	rtp->newest = (uint32_t)(source - rtp->sources);
	rtp->packets++;
	settle(rtp, source, time);
	ahead = (int16_t)(packet->sequence - (uint16_t)source->highest);
	if (ahead <= 0 && -ahead < MCR_RTP_WINDOW)
		return take_behind(rtp, source, source->highest - (uint64_t)-ahead);
	if (ahead <= 0 || !is_plausible(source, time, packet, ahead))
		return take_stray(rtp, source, time, packet);
	return take_next(rtp, source, time, packet);
}

void mcr_rtp_wait(struct mcr_rtp *rtp, uint64_t now)
{
	for (uint32_t i = 0; i < MCR_RTP_SOURCES; i++)
		if (rtp->sources[i].held)
			settle(rtp, &rtp->sources[i], now);
}

void mcr_rtp_resume(struct mcr_rtp *rtp)
{
	for (uint32_t i = 0; i < MCR_RTP_SOURCES; i++) {
		if (rtp->sources[i].held)
			decide(rtp, &rtp->sources[i], rtp->sources[i].highest);
		rtp->sources[i].resumes = true;
	}
}

uint64_t mcr_rtp_jitter(const struct mcr_rtp *rtp)
{
	return rtp->sources[rtp->newest].jitter / 16;
}

bool mcr_rtp_has_clock(const struct mcr_rtp *rtp)
{
	return rtp->sources[rtp->newest].clock;
}
