/* SPDX-License-Identifier: MIT */
/*
 * PIDs that PMTs refer to, of a transport stream (ETSI TR 101 290, 1.6): each has to occur again within five seconds.
 *
 * That is asked of video, sound, and the clock (PCR). Others may stay away for longer: data, subtitles, and sound that is
 * marked as being for some listeners (ISO 639 descriptor, audio type above 0). Of a PMT what stands in its first packet is
 * read. Pure; bounded by the bytes it is given.
 */
#ifndef MCR_HEALTH_PIDS_H
#define MCR_HEALTH_PIDS_H

#include <stdbool.h>
#include <stdint.h>

#define MCR_PIDS_WATCHED 128  /* further ones are not */
#define MCR_PIDS_SEEN    0x20 /* of what is kept for a PID: a packet of it came since it was looked at last */

struct mcr_pid {
	uint16_t pid;
	bool away;         /* it was counted */
	bool named;        /* by the PMT that is being read */
	uint64_t programs; /* that refer to it, a bit each */
	uint64_t
		time; /* when it came last, a tenth of a second late at most; before that, since when it is waited for */
};

struct mcr_pids {
	uint64_t errors;
	uint64_t looked; /* when, ns */
	uint32_t count;
	struct mcr_pid pids[MCR_PIDS_WATCHED];
};

/* A PMT begins here: of the program of this number in the PAT's order, below 64. */
void mcr_pids_refer(struct mcr_pids *pids, uint64_t time, uint32_t program, const uint8_t *section, uint32_t size);

/* Look at what came, ten times a second. `seen`: by PID, MCR_PIDS_SEEN, which is taken from those that are watched. */
void mcr_pids_check(struct mcr_pids *pids, uint64_t time, uint8_t *seen);

/* Nothing came for so long, in ns, which is no fault of a PID's. */
void mcr_pids_skip(struct mcr_pids *pids, uint64_t gap);

/* Packets came up to this time that were not seen, and may have been of any PID. */
void mcr_pids_excuse(struct mcr_pids *pids, uint64_t time);

/* There are other programs now. */
void mcr_pids_forget(struct mcr_pids *pids);

#endif
