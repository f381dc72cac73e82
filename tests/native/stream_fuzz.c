// SPDX-License-Identifier: MIT
/*
 * Feeds the analysers of streams sound, mutated and truncated RTP packets and transport streams in exactly sized buffers, so
 * that a sanitizer sees every byte read too far; sums stay within what came.
 *
 *	stream_fuzz ROUNDS SEED
 */
#include "common.h"
#include "health/stream.h"

#define MOST 1316

static uint32_t put_ts(uint8_t *at, uint8_t *counter)
{
	uint32_t packets = 1 + rnd(6);

	for (uint32_t i = 0; i < packets; i++, at += MCR_TS_PACKET) {
		memset(at, (int)rnd(256), MCR_TS_PACKET);
		at[0] = MCR_TS_SYNC;
		at[1] = (uint8_t)(rnd(2) << 6 | !rnd(8));
		at[2] = (uint8_t)rnd(3);
		at[3] = (uint8_t)(rnd(4) << 4 | (++*counter & 15));
	}
	return packets * MCR_TS_PACKET;
}

static uint32_t put_datagram(uint8_t *at, uint16_t *sequence, uint8_t *counter)
{
	uint32_t header = 0;

	if (rnd(3)) {
		header = MCR_RTP_HEADER;
		memset(at, 0, header);
		at[0] = 0x80;
		at[1] = (uint8_t)(rnd(2) ? 33 : 96);
		*sequence += (uint16_t)(rnd(50) ? 1 : rnd(65536));
		store16(at + 2, *sequence);
		at[11] = (uint8_t)rnd(6);
	}
	return rnd(4) ? header + put_ts(at + header, counter) : header + rnd(64);
}

/* What the filter tells in brief, of as many packets as may be, with their fields or without. */
static void take_brief(struct mcr_stream *stream, uint64_t time, const uint8_t *whole)
{
	bool has_fields = rnd(2);
	size_t bytes = has_fields ? sizeof(struct mcr_bpf_brief) : offsetof(struct mcr_bpf_brief, fields);
	uint32_t size = rnd(8) * MCR_TS_PACKET + MCR_RTP_HEADER * rnd(2);
	struct mcr_bpf_brief *brief = malloc(bytes);

	memcpy(brief, whole, bytes);
	mcr_stream_take_brief(stream, time, brief, size, has_fields);
	free(brief);
}

static void check(const struct mcr_stream *stream)
{
	struct mcr_figures figures;

	mcr_stream_tell(stream, &figures);
	CHECK(figures.other <= figures.packets && figures.stalls <= figures.packets);
	CHECK(figures.late + figures.reordered + figures.duplicates + figures.restarts <= figures.packets);
	CHECK(figures.continuity + figures.sync_bytes + figures.transport <= figures.ts_packets);
	CHECK(figures.gap_median <= figures.gap_99 && figures.gap_99 <= figures.gap_longest);
}

int main(int argc, char **argv)
{
	struct mcr_stream *stream = calloc(1, sizeof(*stream));
	uint64_t time = 1;
	uint16_t sequence = 0;
	uint8_t counter = 0;

	if (argc != 3)
		return 2;
	seed(strtoull(argv[2], NULL, 10));
	for (uint64_t round = strtoull(argv[1], NULL, 10); round; round--) {
		uint8_t whole[MOST] = { 0 }, *exact;
		uint32_t size = put_datagram(whole, &sequence, &counter), kept = rnd(4) ? size : rnd(size + 1);

		for (uint32_t i = rnd(4) ? 0 : rnd(8); i && size; i--)
			whole[rnd(size)] = (uint8_t)rnd(256);
		exact = malloc(kept ? kept : 1);
		memcpy(exact, whole, kept);
		time += rnd(100) ? rnd(2000000) : rnd(2000000000);
		mcr_stream_take(stream, time, exact, size, kept);
		free(exact);
		if (!rnd(4))
			take_brief(stream, time, whole);
		if (!rnd(500))
			mcr_stream_miss(stream, rnd(100));
		if (!rnd(100))
			mcr_stream_wait(stream, time);
		if (!rnd(2000)) {
			check(stream);
			memset(stream, 0, sizeof(*stream));
			stream->asked = stream->kind = rnd(3);
		}
	}
	check(stream);
	free(stream);
	return 0;
}
