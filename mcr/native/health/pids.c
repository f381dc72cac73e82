// SPDX-License-Identifier: MIT
#include "health/pids.h"

#include <string.h>

#include "clock.h"

#define AWAY_NS      (5 * MCR_SECOND_NS)
#define LOOK_NS      (MCR_SECOND_NS / 10)
#define FIRST_PID    0x10 /* below are those of tables */
#define NULL_PID     0x1fff
#define CURRENT      1  /* current_next_indicator, in the sixth byte of a section */
#define SECTION      12 /* bytes of a PMT before its descriptors */
#define CRC          4
#define ENTRY        5    /* bytes of a stream in a PMT before its descriptors */
#define LANGUAGE     0x0a /* ISO_639_language_descriptor */
#define LANGUAGE_LEN 4    /* of each language, with its audio type */
#define REGISTRATION 0x05
#define EXTENSION    0x7f /* ETSI EN 300 468 */
#define PRIVATE      0x06 /* stream_type: descriptors say what it is */

/* One stream of a PMT, and its descriptors. */
struct entry {
	uint8_t type;
	uint16_t pid;
	const uint8_t *descriptors;
	uint32_t size;
};

static uint32_t read12(const uint8_t *at)
{
	return (at[0] & 0x0fu) << 8 | at[1];
}

static uint16_t read_pid(const uint8_t *at)
{
	return (uint16_t)((at[0] & 0x1f) << 8 | at[1]);
}

/* Stream types of video and sound: ISO/IEC 13818-1, table 2-34; ATSC A/53 (AC-3), A/52 (E-AC-3); VC-1. */
static bool is_media_type(uint8_t type)
{
	static const uint8_t types[] = { 0x01, 0x02, 0x03, 0x04, 0x0f, 0x10, 0x11, 0x1b, 0x1c, 0x20, 0x21,
					 0x24, 0x2d, 0x2e, 0x32, 0x33, 0x42, 0x81, 0x87, 0xd1, 0xd2, 0xea };

	return memchr(types, type, sizeof(types));
}

/* Descriptors that say that private data is video or sound: AC-3, E-AC-3, DTS, AAC; AC-4 and others by extension. */
static bool says_media(const uint8_t *descriptor)
{
	static const uint8_t tags[] = { 0x6a, 0x7a, 0x7b, 0x7c };
	static const uint8_t extensions[] = { 0x0e, 0x0f, 0x15 };
	static const char formats[] = "AC-3EAC3AC-4OpusBSSDHEVCDTS1DTS2DTS3";

	if (*descriptor == EXTENSION && descriptor[1])
		return memchr(extensions, descriptor[2], sizeof(extensions));
	for (uint32_t i = 0; *descriptor == REGISTRATION && descriptor[1] >= 4 && i + 4 < sizeof(formats); i += 4)
		if (!memcmp(descriptor + 2, formats + i, 4))
			return true;
	return memchr(tags, *descriptor, sizeof(tags));
}

/* For the hearing impaired, commentary for the visually impaired, and the like: it may be silent for long. */
static bool is_for_some(const uint8_t *descriptor)
{
	for (uint32_t at = 0; *descriptor == LANGUAGE && at + LANGUAGE_LEN <= descriptor[1]; at += LANGUAGE_LEN)
		if (descriptor[2 + at + LANGUAGE_LEN - 1])
			return true;
	return false;
}

/* Whether a stream has to come all the time. */
static bool is_due(const struct entry *entry)
{
	bool is_media = is_media_type(entry->type);

	for (uint32_t at = 0; at + 2 <= entry->size && at + 2u + entry->descriptors[at + 1] <= entry->size;
	     at += 2u + entry->descriptors[at + 1]) {
		const uint8_t *descriptor = entry->descriptors + at;

		if (is_for_some(descriptor))
			return false;
		is_media |= entry->type == PRIVATE && says_media(descriptor);
	}
	return is_media;
}

static void name(struct mcr_pids *pids, uint64_t time, uint32_t program, uint16_t pid)
{
	struct mcr_pid *found = pids->pids;

	if (pid < FIRST_PID || pid == NULL_PID)
		return;
	while (found < pids->pids + pids->count && found->pid != pid)
		found++;
	if (found == pids->pids + MCR_PIDS_WATCHED)
		return;
	if (found == pids->pids + pids->count) {
		*found = (struct mcr_pid){ .pid = pid, .time = time };
		pids->count++;
	}
	found->named = true;
	found->programs |= UINT64_C(1) << program;
}

/* What this program does not refer to any more, nor another one, is not watched. */
static void drop_others(struct mcr_pids *pids, uint32_t program)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < pids->count; i++) {
		struct mcr_pid each = pids->pids[i];

		if (!each.named)
			each.programs &= ~(UINT64_C(1) << program);
		each.named = false;
		if (each.programs)
			pids->pids[kept++] = each;
	}
	pids->count = kept;
}

void mcr_pids_refer(struct mcr_pids *pids, uint64_t time, uint32_t program, const uint8_t *section, uint32_t size)
{
	uint32_t at, end;

	if (size < SECTION || !(section[5] & CURRENT))
		return;
	end = 3 + read12(section + 1);
	end = end < SECTION + CRC ? 0 : end - CRC;
	end = end < size ? end : size;
	name(pids, time, program, read_pid(section + 8));
	for (at = SECTION + read12(section + 10); at + ENTRY <= end;) {
		struct entry entry = { .type = section[at],
				       .pid = read_pid(section + at + 1),
				       .descriptors = section + at + ENTRY,
				       .size = read12(section + at + 3) };

		at += ENTRY + entry.size;
		if (at > end) /* its descriptors are in another packet */
			break;
		if (is_due(&entry))
			name(pids, time, program, entry.pid);
	}
	drop_others(pids, program);
}

void mcr_pids_check(struct mcr_pids *pids, uint64_t time, uint8_t *seen)
{
	if (time - pids->looked < LOOK_NS)
		return;
	pids->looked = time;
	for (uint32_t i = 0; i < pids->count; i++) {
		struct mcr_pid *pid = &pids->pids[i];

		if (seen[pid->pid] & MCR_PIDS_SEEN) {
			seen[pid->pid] &= (uint8_t)~MCR_PIDS_SEEN;
			pid->time = time;
			pid->away = false;
		} else if (!pid->away && time - pid->time > AWAY_NS) {
			pid->away = true;
			pids->errors++;
		}
	}
}

void mcr_pids_skip(struct mcr_pids *pids, uint64_t gap)
{
	for (uint32_t i = 0; i < pids->count; i++)
		pids->pids[i].time += gap;
}

void mcr_pids_excuse(struct mcr_pids *pids, uint64_t time)
{
	for (uint32_t i = 0; i < pids->count; i++)
		if (!pids->pids[i].away)
			pids->pids[i].time = time;
}

void mcr_pids_forget(struct mcr_pids *pids)
{
	pids->count = 0;
}
