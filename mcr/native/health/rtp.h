/* SPDX-License-Identifier: MIT */
/*
 * The sequence of RTP packets (RFC 3550): what is lost, comes late, twice or out of order, and the jitter.
 *
 * A number that is passed over counts as lost when a tenth of a second has gone by without it, or a thousand later
 * packets have come; so each lost packet counts once, and none that was only overtaken. Pure; reads nothing but what it
 * is given.
 */
#ifndef MCR_HEALTH_RTP_H
#define MCR_HEALTH_RTP_H

#include <stdbool.h>
#include <stdint.h>

#define MCR_RTP_HEADER  12 /* bytes */
#define MCR_RTP_SOURCES 4 /* that are told apart; another one takes the place of the one that has been silent longest */
#define MCR_RTP_WINDOW  1024 /* sequence numbers that may still come */

/* A packet's header. */
struct mcr_rtp_packet {
	uint32_t source;    /* SSRC */
	uint32_t timestamp; /* of its media's clock */
	uint16_t sequence;
	uint8_t type;  /* of its payload */
	uint32_t size; /* bytes of the header, with what extends it */
};

/* One sender (SSRC). Sequence numbers are extended by the times that they have wrapped. */
struct mcr_rtp_source {
	bool held;
	bool resumes; /* with whatever number comes next */
	uint32_t source;
	uint64_t newest;   /* when a packet came last, ns */
	uint64_t first;    /* sequence number */
	uint64_t highest;  /* sequence number */
	uint64_t decided;  /* what is missing up to here was counted */
	uint64_t marked;   /* the highest number, at the time of the mark */
	uint64_t mark;     /* ns */
	uint64_t interval; /* usual, between two packets, ns */
	uint16_t stray;    /* the number that would follow one from far away */
	bool has_stray;
	uint8_t type;
	uint32_t clock;       /* Hz; 0: not known */
	uint32_t timestamp;   /* of the newest packet */
	uint64_t clock_time;  /* since when the clock is watched, ns */
	uint32_t clock_begun; /* the timestamp then */
	uint64_t jitter;      /* ns, times 16 (RFC 3550, A.8) */
	uint64_t seen[MCR_RTP_WINDOW / 64];
};

struct mcr_rtp {
	uint64_t packets;
	uint64_t lost;
	uint64_t late;       /* came after they were counted as lost */
	uint64_t reordered;  /* came behind a later one, in time */
	uint64_t duplicates; /* came twice */
	uint64_t restarts;   /* another sender, or numbers from elsewhere */
	uint32_t newest;     /* of the sources */
	struct mcr_rtp_source sources[MCR_RTP_SOURCES];
};

enum mcr_rtp_verdict { MCR_RTP_NEXT, MCR_RTP_BEHIND, MCR_RTP_AGAIN };

/* Read a header of `kept` bytes of a payload of `size`. false: it is none, or its end was not kept. */
bool mcr_rtp_read(struct mcr_rtp_packet *packet, const uint8_t *payload, uint32_t size, uint32_t kept);

/* A packet has come: the next one, or from behind, or once more. */
enum mcr_rtp_verdict mcr_rtp_take(struct mcr_rtp *rtp, uint64_t time, const struct mcr_rtp_packet *packet);

/* Time goes by without a packet. */
void mcr_rtp_wait(struct mcr_rtp *rtp, uint64_t now);

/* Packets came that were not seen: begin anew with the next one. */
void mcr_rtp_resume(struct mcr_rtp *rtp);

/* Of the sender that was heard last: interarrival jitter, ns, and whether there is one: its clock is known. */
uint64_t mcr_rtp_jitter(const struct mcr_rtp *rtp);
bool mcr_rtp_has_clock(const struct mcr_rtp *rtp);

#endif
