/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the eBPF programs and those who use them have to agree on. */
#ifndef MCR_BPF_ABI_H
#define MCR_BPF_ABI_H

#include <stddef.h>
#include <stdint.h>

#include "shm_abi.h"

/*
 * Bytes that a clipped super-frame keeps, and one more for each datagram in it. Fewer than any headers have, so that each
 * is clipped; nobody reads them.
 */
#define MCR_BPF_CLIP 32u

#define MCR_BPF_OUTPUTS 32  /* of a rule that the kernel path forwards by, at most */
#define MCR_BPF_WORKERS 256 /* that the filter asks whether their rings are empty, at most */

/*
 * Bytes of an IP datagram that the kernel path takes, at most: its checksum is added up in so many steps. Of a super-frame
 * each datagram counts.
 */
#define MCR_BPF_LONGEST 12288u

#define MCR_BPF_GUARD 0x4d435231u /* mark of the sockets that only hold a port (mcr/net/port_guard.py): "MCR1" */

/* Value of the map of gates, by capture. */
struct mcr_bpf_gate {
	uint32_t epoch; /* 0: it is closed */
	uint32_t sole;  /* nobody but IP takes frames of the interface behind the program, so it may consume them */
	uint32_t first; /* epoch of the capture: what older ones handed over was of others that had its slot */
	uint32_t unused;
};

/* One output of a rule, as the kernel path needs it. Addresses and ports in network byte order. */
struct mcr_bpf_output {
	uint8_t macs[12]; /* destination and source */
	uint16_t slot;    /* of its counters */
	uint8_t ttl;
	uint8_t service;    /* DSCP, and two bits for ECN */
	uint32_t interface; /* its index; 0: it has no carrier, and datagrams fail with ENETDOWN */
	uint32_t source;
	uint32_t group;
	uint16_t source_port;
	uint16_t port;
	uint8_t keeps; /* MCR_KEEP_…, of the headers that a datagram came with */
	uint8_t unused;
	uint16_t vlan; /* that its frames are tagged with; 0: none */
};

/* One output of a rule that sends by IPv6, likewise. Each address is four words, as they lie in a header. */
struct mcr_bpf_output6 {
	uint8_t macs[12]; /* destination and source */
	uint16_t slot;    /* of its counters */
	uint8_t hops;
	uint8_t service;    /* DSCP, and two bits for ECN */
	uint32_t interface; /* its index; 0: it has no carrier, and datagrams fail with ENETDOWN */
	uint32_t source[4];
	uint32_t group[4];
	uint16_t source_port;
	uint16_t port;
	uint32_t keeps; /* MCR_KEEP_…, of the headers that a datagram came with */
};

/* What the kernel path has of a rule, whatever its family. */
struct mcr_bpf_head {
	uint32_t slot;  /* of its counters */
	uint32_t epoch; /* of the gate, in which the flow has moved to the kernel path; the filter writes it */
	uint32_t mtu;   /* the least of its outputs: what is longer goes to a worker, as IP cuts it */
	uint32_t count; /* of outputs */
};

/* Value of the map of what the kernel path forwards. Replaced as a whole, so a packet sees one state of a rule. */
struct mcr_bpf_rule {
	struct mcr_bpf_head head;
	struct mcr_bpf_output outputs[MCR_BPF_OUTPUTS];
};

/* The same of rules that take IPv6 and send by it. */
struct mcr_bpf_rule6 {
	struct mcr_bpf_head head;
	struct mcr_bpf_output6 outputs[MCR_BPF_OUTPUTS];
};

_Static_assert(sizeof(struct mcr_bpf_rule) == 16 + MCR_BPF_OUTPUTS * 36, "no padding");
_Static_assert(sizeof(struct mcr_bpf_rule6) == 16 + MCR_BPF_OUTPUTS * 60, "no padding");

/* What the kernel path has done with datagrams of one capture, on one processor. */
struct mcr_bpf_taken {
	uint64_t matched;
	uint64_t checksum; /* the checksum was wrong */
	uint64_t lost;     /* another program at the interface's ingress took the frame */
	uint64_t sent;
	uint64_t errors;
	uint64_t bytes;
};

enum mcr_bpf_fate { PATH_NONE, PATH_WORKER, PATH_KERNEL };

/* What the filter has decided of a packet, on its processor (hand.h). */
struct mcr_bpf_hand {
	uint16_t path;   /* enum mcr_bpf_fate */
	uint16_t sole;   /* as the gate's */
	uint32_t worker; /* whose ring the frame is in */
	uint32_t capture;
	uint32_t interface;
	uint32_t datagrams;
	uint32_t group; /* destination of the packet, of IPv6 its last word, if it is for the kernel path */
	uint32_t ports;
	uint32_t source; /* that its rule names, of IPv6 whether it does; 0: its rule takes any */
	uint32_t epoch;  /* of the capture's gate */
	uint32_t unused; /* values for each processor take whole words */
};

/*
 * Frames in one ring of a capture. `entered` counts those that are there to be read, or were. A worker reads it, finds its
 * ring empty, and writes what it read to `seen`: when both are equal nothing waits, and nothing is being sent.
 */
struct mcr_bpf_drain {
	uint64_t entered; /* the program at the ingress */
	uint64_t seen;    /* the worker */
};

#define MCR_BPF_KEPT_PLAIN 20   /* bytes of a datagram that are told at least: RTP's plain header, and what is behind */
#define MCR_BPF_KEPT_HEAD  64   /* if RTP's header goes on behind its twelve bytes */
#define MCR_BPF_KEPT       1472 /* of a transport stream: all that a frame of Ethernet has */

/* Value of the map of streams whose health is watched, by number. */
struct mcr_bpf_stream {
	uint64_t astray; /* datagrams that came by a processor that has no ring */
	uint32_t
		keep; /* bytes of each that may have to be told: of a transport stream MCR_BPF_KEPT; 0: there is none */
	uint32_t number; /* its own */
};

/* A record that tells of a datagram: this, and the first bytes of the payload. */
struct mcr_bpf_seen {
	uint64_t time;  /* CLOCK_MONOTONIC, ns */
	uint64_t count; /* the stream's on this processor, with this one */
	uint16_t stream;
	uint16_t slots; /* that the record takes */
	uint16_t size;  /* of the payload, bytes */
	uint16_t kept;  /* MCR_BPF_BRIEF: a brief stands there instead */
};

#define MCR_BPF_BRIEF         0xffffu
#define MCR_BPF_BRIEF_PACKETS 7
#define MCR_BPF_RTP_WORDS     3
#define MCR_BPF_FIELD_WORDS   2

/*
 * Of a datagram that is a transport stream's, with or without the plain header of RTP: that, and what stands in front of
 * each packet up to its clock. Nothing else of it matters: no table begins there. A record of one slot ends before the
 * fields: no packet has any.
 */
struct mcr_bpf_brief {
	uint32_t rtp[MCR_BPF_RTP_WORDS];
	uint32_t headers[MCR_BPF_BRIEF_PACKETS];
	uint32_t fields[MCR_BPF_BRIEF_PACKETS]
		       [MCR_BPF_FIELD_WORDS]; /* the first bytes of adaptation fields, or payload */
};

#define MCR_BPF_TOLD           64 /* datagrams of a super-frame: the verifier walks through each */
#define MCR_BPF_SLOT           64 /* bytes: one line of the cache */
#define MCR_BPF_SLOTS_OF(size) (((uint32_t)(size) + MCR_BPF_SLOT - 1) / MCR_BPF_SLOT)
#define MCR_BPF_MOST_SLOTS     MCR_BPF_SLOTS_OF(sizeof(struct mcr_bpf_seen) + MCR_BPF_KEPT)
#define MCR_BPF_SPARE_SLOTS    (MCR_BPF_TOLD * MCR_BPF_MOST_SLOTS)

/*
 * What one processor tells, in slots: a ring, behind which there is room for the records that begin in its last slot. Each
 * side writes its own count, and the reader waits with what is new (health/tap.c). The datagrams of each stream are counted
 * here, too, told or not: by several processors in one place they would not be counted exactly.
 */
struct mcr_bpf_ring {
	_Alignas(MCR_BPF_SLOT) uint64_t produced; /* slots */
	_Alignas(MCR_BPF_SLOT) uint64_t consumed;
	_Alignas(MCR_BPF_SLOT) uint64_t counts[MCR_MAX_RULES]; /* by number of the stream */
	_Alignas(MCR_BPF_SLOT) uint8_t slots[];                /* a power of two, and MCR_BPF_SPARE_SLOTS */
};

/* A payload that the filter looks at, on its processor, and where it looks. */
struct mcr_bpf_media {
	uint8_t bytes[MCR_BPF_KEPT];
	uint8_t spare[512]; /* what `begin` may point to */
	uint32_t at;        /* where the first packet begins */
	uint32_t begin;     /* where its payload begins in a packet */
};

#endif
