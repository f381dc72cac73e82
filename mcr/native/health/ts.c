// SPDX-License-Identifier: MIT
#include "health/ts.h"

#include <string.h>

#include "clock.h"

#define HEADER      4
#define DAMAGED     0x80   /* transport_error_indicator, in the second byte */
#define STARTS      0x40   /* payload_unit_start_indicator */
#define HAS_PAYLOAD 0x10   /* in the fourth byte */
#define HAS_FIELD   0x20   /* an adaptation field */
#define BROKEN_OFF  0x80   /* discontinuity_indicator, in the field's flags */
#define HAS_CLOCK   0x10   /* PCR_flag */
#define NULL_PID    0x1fff /* stuffing */

/* Of the first four bytes: synchronous, neither damaged nor the start of something, and nothing but payload. */
#define ORDINARY_MASK 0xffc00030u
#define ORDINARY      0x47000010u

#define KNOWN        0x80 /* of `counters` */
#define REPEATED     0x40
#define COUNTER      0x0f
#define PAT_ID       0x00
#define PMT_ID       0x02
#define CURRENT      1 /* current_next_indicator, in the sixth byte of a section */
#define SECTION      8 /* bytes of a section before its programs */
#define CRC          4
#define TABLE_NS     (MCR_SECOND_NS / 2)
#define AWAY_NS      (5 * MCR_SECOND_NS)  /* a table that comes again within that is late, not away */
#define STALL_NS     (MCR_SECOND_NS / 10) /* longer gaps between datagrams don't count against tables */
#define BAD_TO_LOSE  2                    /* packets in a row, TR 101 290, 1.1 */
#define GOOD_TO_FIND 5
#define CLOCK_HZ     27000000u
#define CLOCK_WRAP   ((UINT64_C(1) << 33) * 300)
#define CLOCK_LEAST  (CLOCK_HZ / 10) /* between two references that a rate is taken from */

/* One packet, with what was read of its header. */
struct packet {
	const uint8_t *data;
	uint16_t pid;
	uint32_t payload; /* where it begins; MCR_TS_PACKET: there is none, or it is not here */
	uint8_t flags;    /* of the adaptation field; 0: there is none */
};

static struct packet read_packet(const uint8_t *data, uint32_t kept)
{
	struct packet packet = { .data = data, .pid = (uint16_t)((data[1] & 0x1f) << 8 | data[2]), .payload = HEADER };

	if (data[3] & HAS_FIELD && kept > MCR_TS_TERSE) {
		packet.payload += 1u + data[4];
		packet.flags = data[4] ? data[5] : 0;
	}
	if (kept < MCR_TS_PACKET || !(data[3] & HAS_PAYLOAD) || packet.payload > MCR_TS_PACKET)
		packet.payload = MCR_TS_PACKET;
	return packet;
}

/* Whether a packet begins as it has to; synchronization is lost with the second one that doesn't, until five do. */
static bool check_sync(struct mcr_ts *ts, const uint8_t *data)
{
	if (*data != MCR_TS_SYNC) {
		ts->sync_bytes++;
		ts->good_run = 0;
		if (++ts->bad_run == BAD_TO_LOSE && !ts->unsynchronized) {
			ts->unsynchronized = true;
			ts->sync_losses++;
		}
		return false;
	}
	ts->bad_run = 0;
	if (ts->unsynchronized && ++ts->good_run == GOOD_TO_FIND) {
		mcr_ts_resume(ts);
		ts->unsynchronized = false;
	}
	return !ts->unsynchronized;
}

/* ISO/IEC 13818-1, 2.4.3.3: it counts packets with a payload, of which each may come twice. */
static void check_continuity(struct mcr_ts *ts, const struct packet *packet)
{
	uint8_t *last = &ts->counters[packet->pid], counter = packet->data[3] & COUNTER;
	bool counts = packet->data[3] & HAS_PAYLOAD;
	uint8_t expected = (uint8_t)(*last + counts) & COUNTER;

	if (packet->pid == NULL_PID)
		return;
	if (!(*last & KNOWN) || packet->flags & BROKEN_OFF || counter == expected) {
		*last = KNOWN | MCR_PIDS_SEEN | counter;
	} else if (counts && counter == (*last & COUNTER) && !(*last & REPEATED)) {
		*last |= REPEATED | MCR_PIDS_SEEN;
	} else {
		ts->continuity++;
		ts->missing += (uint8_t)(counter - expected) & COUNTER;
		*last = KNOWN | MCR_PIDS_SEEN | counter;
	}
}

/* The section that begins in a packet, and how many of its bytes are there; NULL: none does. */
static const uint8_t *find_section(const struct packet *packet, uint32_t *size)
{
	uint32_t at = packet->payload;

	if (!(packet->data[1] & STARTS) || at >= MCR_TS_PACKET)
		return NULL;
	at += 1u + packet->data[at];
	if (at >= MCR_TS_PACKET)
		return NULL;
	*size = MCR_TS_PACKET - at;
	return packet->data + at;
}

static void come(struct mcr_ts_table *table, uint64_t time)
{
	table->time = time;
	table->missing = false;
	table->seen = true;
}

/* Whether these are the programs that were known, in the same order. */
static bool are_same(const struct mcr_ts *ts, const struct mcr_ts_table *before, uint32_t known)
{
	bool same = ts->programs == known;

	for (uint32_t i = 0; same && i < known; i++)
		same = ts->pmts[i].pid == before[i].pid && ts->pmts[i].program == before[i].program;
	return same;
}

/* Watch the programs of a PAT that begins here: as many as stand in this packet, 42 at most. */
static void read_programs(struct mcr_ts *ts, uint64_t time, const uint8_t *section, uint32_t size)
{
	struct mcr_ts_table before[MCR_TS_PROGRAMS];
	uint32_t known = ts->programs, end = size < SECTION ? 0 : 3u + ((section[1] & 0x0fu) << 8 | section[2]);

	if (!end || !(section[5] & CURRENT))
		return;
	memcpy(before, ts->pmts, sizeof(before));
	ts->programs = 0;
	end = end > CRC ? end - CRC : 0;
	for (uint32_t at = SECTION; at + 4 <= size && at + 4 <= end && ts->programs < MCR_TS_PROGRAMS; at += 4) {
		struct mcr_ts_table table = { .pid = (uint16_t)((section[at + 2] & 0x1f) << 8 | section[at + 3]),
					      .program = (uint16_t)(section[at] << 8 | section[at + 1]),
					      .time = time };

		if (!table.program) /* the network's */
			continue;
		for (uint32_t i = 0; i < known; i++)
			if (before[i].pid == table.pid && before[i].program == table.program)
				table = before[i];
		ts->pmts[ts->programs++] = table;
	}
	if (!are_same(ts, before, known))
		mcr_pids_forget(&ts->referred);
}

static void read_tables(struct mcr_ts *ts, uint64_t time, const struct packet *packet)
{
	const uint8_t *section;
	uint32_t size;

	section = packet->pid == NULL_PID ? NULL : find_section(packet, &size);
	if (!section)
		return;
	if (!packet->pid && *section == PAT_ID) {
		come(&ts->pat, time);
		read_programs(ts, time, section, size);
	}
	for (uint32_t i = 0; packet->pid && *section == PMT_ID && i < ts->programs; i++) {
		if (ts->pmts[i].pid != packet->pid)
			continue;
		come(&ts->pmts[i], time);
		if (size >= SECTION && ts->pmts[i].program == (section[3] << 8 | section[4]))
			mcr_pids_refer(&ts->referred, time, i, section, size);
	}
}

/* The rate between two references of the same clock. */
static void read_clock(struct mcr_ts *ts, const struct packet *packet)
{
	const uint8_t *at = packet->data + HEADER + 2;
	uint64_t base, clock, ticks;

	if (!(packet->flags & HAS_CLOCK) || packet->data[HEADER] < 7 || (ts->has_clock && ts->clock_pid != packet->pid))
		return;
	base = (uint64_t)at[0] << 25 | (uint32_t)at[1] << 17 | (uint32_t)at[2] << 9 | (uint32_t)at[3] << 1 | at[4] >> 7;
	clock = base * 300 + ((at[4] & 1u) << 8 | at[5]);
	ticks = (clock + CLOCK_WRAP - ts->clock) % CLOCK_WRAP;
	if (ts->has_clock && !(packet->flags & BROKEN_OFF)) {
		if (ticks < CLOCK_LEAST)
			return;
		if (ticks < 10 * CLOCK_HZ)
			ts->rate = (ts->packets - ts->clock_packets) * MCR_TS_PACKET * CLOCK_HZ / ticks;
	}
	ts->has_clock = true;
	ts->clock_pid = packet->pid;
	ts->clock = clock;
	ts->clock_packets = ts->packets;
}

static void check_table(struct mcr_ts_table *table, uint64_t time, uint64_t *errors)
{
	if (table->missing || time - table->time <= TABLE_NS)
		return;
	table->missing = true;
	++*errors;
}

static void check_tables(struct mcr_ts *ts, uint64_t time)
{
	check_table(&ts->pat, time, &ts->pat_errors);
	for (uint32_t i = 0; i < ts->programs; i++)
		check_table(&ts->pmts[i], time, &ts->pmt_errors);
	if (!ts->unsynchronized)
		mcr_pids_check(&ts->referred, time, ts->counters);
}

/* Time in which nothing came is no table's fault. */
static void skip_stall(struct mcr_ts *ts, uint64_t time)
{
	uint64_t gap = time - ts->newest;

	if (!ts->newest)
		ts->pat.time = time;
	else if (gap > STALL_NS)
		ts->pat.time += gap;
	for (uint32_t i = 0; i < ts->programs && gap > STALL_NS; i++)
		ts->pmts[i].time += gap;
	if (ts->newest && gap > STALL_NS)
		mcr_pids_skip(&ts->referred, gap);
	ts->newest = time;
}

/* Most packets: synchronous, undamaged, nothing but payload, in which nothing begins, and the next of their PID. */
static bool take_ordinary(struct mcr_ts *ts, const uint8_t *data)
{
	uint32_t header = (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
	uint32_t pid = header >> 8 & NULL_PID, expected = KNOWN | ((ts->counters[pid] + 1u) & COUNTER);
	bool follows = ts->counters[pid] & KNOWN && (KNOWN | (header & COUNTER)) == expected;

	if ((header & ORDINARY_MASK) != ORDINARY || (pid != NULL_PID && !follows))
		return false;
	if (pid != NULL_PID)
		ts->counters[pid] = (uint8_t)(expected | MCR_PIDS_SEEN);
	ts->bad_run = 0;
	return true;
}

static void take_packet(struct mcr_ts *ts, uint64_t time, const uint8_t *data, uint32_t kept)
{
	struct packet packet;

	if (!check_sync(ts, data))
		return;
	packet = read_packet(data, kept);
	if (data[1] & DAMAGED) { /* nothing else of it can be relied on */
		ts->transport++;
		return;
	}
	check_continuity(ts, &packet);
	read_tables(ts, time, &packet);
	read_clock(ts, &packet);
}

void mcr_ts_take(struct mcr_ts *ts, uint64_t time, const uint8_t *packets, uint32_t count, uint32_t step)
{
	skip_stall(ts, time);
	for (; count; count--, packets += step) {
		ts->packets++;
		if (ts->unsynchronized || !take_ordinary(ts, packets))
			take_packet(ts, time, packets, step);
	}
	check_tables(ts, time);
}

void mcr_ts_resume(struct mcr_ts *ts)
{
	memset(ts->counters, 0, sizeof(ts->counters));
	mcr_pids_excuse(&ts->referred, ts->newest);
	ts->has_clock = false;
}

uint64_t mcr_ts_oldest_pmt(const struct mcr_ts *ts)
{
	uint64_t oldest = ts->programs ? UINT64_MAX : 0;

	for (uint32_t i = 0; i < ts->programs; i++) {
		uint64_t time = ts->pmts[i].seen ? ts->pmts[i].time : 0;

		oldest = time < oldest ? time : oldest;
	}
	return oldest;
}

static bool is_away(const struct mcr_ts *ts, const struct mcr_ts_table *table)
{
	return ts->newest - table->time > AWAY_NS;
}

uint32_t mcr_ts_away(const struct mcr_ts *ts, uint64_t away[MCR_TS_AWAY])
{
	const struct mcr_pids *referred = &ts->referred;
	uint32_t count = 0;

	if (is_away(ts, &ts->pat))
		away[count++] = 0;
	for (uint32_t i = 0; i < ts->programs && count < MCR_TS_AWAY; i++)
		if (is_away(ts, &ts->pmts[i]))
			away[count++] = ts->pmts[i].pid;
	for (uint32_t i = 0; i < referred->count && count < MCR_TS_AWAY; i++)
		if (referred->pids[i].away)
			away[count++] = referred->pids[i].pid;
	return count;
}
