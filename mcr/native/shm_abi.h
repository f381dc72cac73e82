/* SPDX-License-Identifier: MIT */
/*
 * The shared memory of one worker: every struct that two processes see (that of a flow, which the kernel sees, too, is in
 * flow.h).
 *
 * The supervisor makes one segment per worker (a sealed memfd) and keeps it over the worker's death: counters and the
 * capture cursors go on where the last worker stopped. Each field has one writer, named beside it. Counters are
 * packets unless said otherwise.
 */
#ifndef MCR_SHM_ABI_H
#define MCR_SHM_ABI_H

#include <stddef.h>
#include <stdint.h>

#include "flow.h"

#define MCR_ABI_VERSION 19
#define MCR_CACHE_LINE  64

#define MCR_MAX_RULES        16384 /* and flows that they take: a rule may take several */
#define MCR_MAX_OUTPUTS      65536
#define MCR_MAX_RULE_OUTPUTS 512
#define MCR_MAX_INTERFACES   256   /* slots of input interfaces, and likewise of output interfaces: two for each */
#define MCR_MAX_NEIGHBOURS   65536 /* that have a socket of their own: as many as outputs */
#define MCR_MAX_EGRESS       (MCR_MAX_INTERFACES + 2 * MCR_MAX_NEIGHBOURS)
#define MCR_MAX_VLANS        4095 /* their ids, from 0 on; 0: untagged */
#define MCR_NO_EGRESS        UINT32_MAX
#define MCR_FACILITIES       8
#define MCR_MAX_OWN          1024 /* addresses and MACs of this machine */
#define MCR_MAX_REFUSED      32   /* flows from machines that return what others send */

#define MCR_RULE_RING_BYTES  (2u << 20)
#define MCR_EVENT_RING_BYTES (256u << 10)

#define MCR_BATCH_SLOTS    256  /* frames taken from one capture ring at a time, at most */
#define MCR_BATCH_OVERSIZE 4    /* of them longer than a slot */
#define MCR_BATCH_PAYLOADS 1024 /* datagrams in those frames */
#define MCR_BATCH_OUTPUTS  1024 /* outputs of the rules that they match */
#define MCR_FRAME_PAYLOADS 128  /* datagrams in one super-frame (UDP_MAX_SEGMENTS) */

/* Why a datagram could not be relayed as it came: the parts of parse_err. */
enum mcr_cause {
	MCR_CAUSE_MALFORMED,           /* not a whole, well-formed UDP datagram of IPv4 or IPv6 */
	MCR_CAUSE_FRAGMENT,            /* a part of one that can belong to none */
	MCR_CAUSE_CHECKSUM,            /* the IP header's or UDP's is wrong, or IPv6 has none */
	MCR_CAUSE_SOURCE,              /* from an address that nobody can have: IP drops these, too */
	MCR_CAUSE_LOOP,                /* from an address or MAC of this machine */
	MCR_CAUSE_OTHER_HOST,          /* to another host's MAC */
	MCR_CAUSE_VLAN,                /* with a second VLAN tag, or one that is not 802.1Q's */
	MCR_CAUSE_FRAGMENT_OVERLAP,    /* a part that overlaps others, or is there already; and those others */
	MCR_CAUSE_FRAGMENT_INCOMPLETE, /* parts of a datagram of which others have not come in time */
	MCR_CAUSE_FRAGMENT_EVICTED,    /* parts of one whose place another datagram was given */
	MCR_CAUSE_RETURNED,            /* from a machine that returns what others send: mcr_rec_refused */
	MCR_CAUSES,
	MCR_CAUSE_NONE = MCR_CAUSES
};

/* A batch touches the totals, one capture, a rule a slot, and so many outputs. */
#define MCR_JOURNAL_ENTRIES (10 + MCR_CAUSES + 6 + MCR_CAUSES + MCR_BATCH_SLOTS + 6 * MCR_BATCH_OUTPUTS)

_Static_assert(MCR_BATCH_OUTPUTS >= MCR_MAX_RULE_OUTPUTS, "one packet's outputs fit in one batch");
_Static_assert(MCR_BATCH_PAYLOADS >= MCR_FRAME_PAYLOADS, "one super-frame's datagrams fit in one batch");

/* How far a worker has come. This and its exit status are all that it says about its end. */
enum mcr_step { MCR_STEP_START, MCR_STEP_PRIVILEGES, MCR_STEP_ENGINE, MCR_STEP_RUN };

struct mcr_header {
	uint32_t version;   /* supervisor: MCR_ABI_VERSION */
	uint32_t length;    /* supervisor: sizeof(struct mcr_segment) */
	uint32_t worker_id; /* supervisor */
	uint32_t workers;   /* supervisor: how many there are */
	uint32_t engine;    /* worker: enum mcr_engine_id */
	uint32_t hold_ns;   /* supervisor: longest batching delay, 0: none */
	uint32_t batch;     /* supervisor: frames to take from a capture ring at a time, 1 to MCR_BATCH_SLOTS */
	uint32_t step;      /* worker: enum mcr_step; the supervisor sets it back before each start */
};

/* Sums over the worker's life and its predecessors'; written by the worker. */
struct mcr_totals {
	_Alignas(MCR_CACHE_LINE) uint64_t recv;
	uint64_t matched;
	uint64_t parse_err;
	uint64_t no_match;
	uint64_t buf_exhaust;
	uint64_t submitted;
	uint64_t sent;
	uint64_t errors;
	uint64_t in_doubt;           /* part of errors: in hand when a worker died */
	uint64_t bytes;              /* payload bytes sent */
	uint64_t log_dropped;        /* log records that found the event ring full */
	uint64_t causes[MCR_CAUSES]; /* parts of parse_err */
};

/* One capture ring; written by the worker, zeroed by the supervisor before it hands out a new ring. */
struct mcr_capture_counters {
	uint64_t cursor;    /* frames taken from the ring; modulo its size, the next slot */
	uint64_t fragments; /* of them that wait for the others of their datagrams, and are not counted yet */
	uint64_t recv;      /* datagrams in them; and what became of these: */
	uint64_t matched;
	uint64_t no_match;
	uint64_t buf_exhaust;
	uint64_t causes[MCR_CAUSES]; /* parts of parse_err */
};

/* One rule; written by the worker. `tag` tells which rule the slot belongs to now. */
struct mcr_rule_counters {
	uint64_t tag;
	uint64_t matched;
};

/* One output of one rule; written by the worker. */
struct mcr_output_counters {
	_Alignas(MCR_CACHE_LINE) uint64_t tag;
	uint64_t submitted;
	uint64_t sent;
	uint64_t errors;
	uint64_t in_doubt;
	uint64_t bytes;
	uint64_t last_error; /* when, in µs of CLOCK_MONOTONIC, and errno in the lowest 16 bits; 0: none */
};

/* What the worker is about to do with a batch, so that its successor can finish it; see journal.h. */
struct mcr_journal_entry {
	uint64_t offset; /* of a counter, from the start of the segment */
	uint64_t value;
};

struct mcr_journal {
	_Alignas(MCR_CACHE_LINE) uint64_t state; /* worker */
	uint64_t count;                          /* worker: entries in use */
	struct mcr_journal_entry entries[MCR_JOURNAL_ENTRIES];
};

/* Positions of a single-producer single-consumer byte ring; see ring.h. */
struct mcr_ring {
	_Alignas(MCR_CACHE_LINE) uint64_t tail; /* producer: bytes ever published */
	_Alignas(MCR_CACHE_LINE) uint64_t head; /* consumer: bytes ever consumed */
};

struct mcr_segment {
	struct mcr_header header;
	struct mcr_totals totals;
	struct mcr_capture_counters captures[MCR_MAX_INTERFACES];
	uint64_t refused[MCR_MAX_REFUSED]; /* worker: datagrams of refused flows, by place; they are causes, too */
	struct mcr_journal journal;
	struct mcr_ring rule_ring;  /* supervisor to worker */
	struct mcr_ring event_ring; /* worker to supervisor */
	_Alignas(4096) struct mcr_rule_counters rules[MCR_MAX_RULES];
	_Alignas(4096) struct mcr_output_counters outputs[MCR_MAX_OUTPUTS];
	_Alignas(4096) uint8_t rule_data[MCR_RULE_RING_BYTES];
	_Alignas(4096) uint8_t event_data[MCR_EVENT_RING_BYTES];
};

_Static_assert(offsetof(struct mcr_segment, header) == 0, "a reader checks version and length first");
_Static_assert(offsetof(struct mcr_header, length) == 4, "a reader checks version and length first");
_Static_assert(sizeof(struct mcr_output_counters) == MCR_CACHE_LINE, "an output's counters fill one cache line");
_Static_assert(offsetof(struct mcr_ring, head) == MCR_CACHE_LINE, "producer and consumer share no cache line");
_Static_assert(MCR_MAX_INTERFACES <= 256, "the journal's state word holds a capture in eight bits");

/* A record in either ring: this, then its body; `length` counts both and is a multiple of eight. */
struct mcr_record {
	uint32_t length;
	uint32_t type;
};

enum mcr_record_type {
	MCR_REC_PAD = 0, /* fills the end of the ring; no body */

	/* Down the rule ring. Descriptors named here were sent over the channel before, in the same order (channel.h). */
	MCR_REC_CAPTURE_PUT,  /* struct mcr_rec_capture, one descriptor */
	MCR_REC_CAPTURE_DROP, /* struct mcr_rec_capture: read what waits, then let go */
	MCR_REC_EGRESS_PUT,   /* struct mcr_rec_egress, one descriptor */
	MCR_REC_EGRESS_DROP,  /* struct mcr_rec_egress, and its raw socket with it */
	MCR_REC_RAW_PUT,      /* struct mcr_rec_raw, one descriptor; in the place of the egress's last one */
	MCR_REC_RAW_DROP,     /* struct mcr_rec_egress */
	MCR_REC_RULE_PUT,     /* struct mcr_rec_rule, then its outputs, then its further flows */
	MCR_REC_RULE_DROP,    /* struct mcr_rec_rule without outputs */
	MCR_REC_GENERATION,   /* struct mcr_rec_generation: all before it makes up this generation */
	MCR_REC_LEVELS,       /* struct mcr_rec_levels */
	MCR_REC_OWN,          /* struct mcr_rec_own, then its keys; in the place of those before */
	MCR_REC_REFUSED,      /* struct mcr_rec_refused, then its flows; in the place of those before */
	MCR_REC_STOP,         /* no body: send what has arrived, then return */

	/* Up the event ring. */
	MCR_REC_ACK,    /* struct mcr_rec_generation */
	MCR_REC_SAMPLE, /* no body: a round number of packets was received, and the counters are worth a log line */
	MCR_REC_LOG,    /* struct mcr_rec_log */
};

struct mcr_rec_capture {
	uint32_t capture;     /* slot in mcr_segment.captures */
	uint32_t serial;      /* tells this capture from the slot's last one */
	uint32_t frame_size;  /* bytes, a power of two */
	uint32_t frame_count; /* a power of two */
	uint32_t offloads;    /* whether the kernel says before each frame how to cut it (PACKET_VNET_HDR) */
	uint32_t reserved;
};

struct mcr_rec_egress {
	uint32_t egress; /* slot of an output interface, or from MCR_MAX_INTERFACES on of a neighbour */
	uint32_t mtu;    /* of the interface, bytes */
	uint32_t common; /* slot of an egress that is used in its place while that has room, or MCR_NO_EGRESS */
	uint32_t ipv6;   /* 1: its sockets are of IPv6 */
};

/* Outputs of this egress that have a source may be sent to by raw frames from here on. */
struct mcr_rec_raw {
	uint32_t egress;
	uint32_t mtu; /* bytes */
	uint8_t mac[6];
	uint16_t tagged_only; /* 1: only those in VLANs may; the others leave through IP */
};

/* What an output keeps of the headers that a datagram came with. */
enum mcr_keep {
	MCR_KEEP_TTL = 1,
	MCR_DECREMENT_TTL = 2, /* keep it less one */
	MCR_KEEP_SERVICE = 4,
	MCR_KEEP_SOURCE = 8,
	MCR_KEEP_PORT = 16, /* of the source */
	MCR_KEEP_ORIGIN = MCR_KEEP_SOURCE | MCR_KEEP_PORT,
	MCR_MAY_BE_CUT = 32,  /* of the kernel path: without DF, as what keeps its origin */
	MCR_SHIFT_GROUP = 64, /* of the rule's groups each goes to the one that has its place in the output */
	MCR_SHIFT_PORT = 128, /* likewise of its ports */
	MCR_SHIFT = MCR_SHIFT_GROUP | MCR_SHIFT_PORT,
};

struct mcr_rec_output {
	uint64_t tag;
	uint32_t output; /* slot in mcr_segment.outputs */
	uint32_t egress;
	uint32_t address;      /* network byte order; of IPv6 the first four bytes */
	uint32_t source;       /* of raw frames to it, network byte order; 0: they may not be sent */
	uint16_t port;         /* network byte order */
	uint16_t max_train;    /* datagrams in one sendmsg, 1 or more */
	uint8_t no_carrier;    /* 1: its interface has none, and its datagrams fail with ENETDOWN */
	uint8_t ttl;           /* 0: the usual one */
	uint8_t service;       /* DSCP, and two bits for ECN (RFC 2474) */
	uint8_t keeps;         /* MCR_KEEP_…, in the place of these */
	uint32_t asked_source; /* likewise; 0: IP chooses it, where it has the say */
	uint16_t vlan;         /* raw frames to it are tagged with, and nothing else leaves; 0: none */
	uint16_t source_port;  /* of raw frames to it, network byte order; 0: that of the interface's socket */
	uint32_t family;       /* of the addresses: MCR_FLOW_… */
	uint32_t address_rest[3];
	uint32_t asked_source_rest[3];
	uint32_t padding;
};

struct mcr_rec_rule {
	uint64_t tag;
	struct mcr_flow flow; /* that it takes; without a family: none */
	uint32_t rule;        /* slot in mcr_segment.rules */
	uint32_t output_count;
	uint32_t
		more_flows; /* struct mcr_flow each, that it takes, too: those of its other sources, groups and ports */
	uint16_t first_port; /* of its flows, network byte order: of these the first is where its outputs say */
	uint16_t group_mask; /* bits of a group that say its place among the rule's */
};

struct mcr_rec_generation {
	uint64_t generation;
};

struct mcr_rec_levels {
	uint8_t level[MCR_FACILITIES];
};

struct mcr_rec_own {
	uint32_t count;
	uint32_t reserved;
};

/* An address or MAC of this machine (own.h), and why a datagram with that source is dropped. */
struct mcr_rec_own_key {
	uint64_t key;
	uint64_t cause; /* enum mcr_cause */
};

/*
 * Flows that are dropped though a rule for any source takes them: somebody returns what others send. They end by themselves:
 * a worker may outlive who watches over them.
 */
struct mcr_rec_refused {
	uint32_t count;
	uint32_t reserved;
};

struct mcr_refusal {
	struct mcr_flow flow; /* with its source */
	uint64_t until_ns;    /* CLOCK_MONOTONIC */
	uint32_t place;       /* in mcr_segment.refused */
	uint32_t reserved;
};

struct mcr_rec_log {
	uint64_t time_ns;  /* CLOCK_REALTIME of the newest occurrence */
	uint64_t first_ns; /* CLOCK_REALTIME of the first occurrence folded into this record */
	uint32_t repeats;  /* occurrences folded into this record: 1 or more */
	uint32_t subjects; /* outputs, flows, ... that they are of: 1 or more; args are the newest's */
	uint16_t code;     /* enum mcr_log_code */
	uint8_t level;
	uint8_t facility;
	uint32_t padding; /* 0 */
	uint64_t args[3];
};

enum mcr_engine_id { MCR_ENGINE_NONE, MCR_ENGINE_URING, MCR_ENGINE_POLL };

enum mcr_level {
	MCR_LEVEL_EMERGENCY,
	MCR_LEVEL_ALERT,
	MCR_LEVEL_CRITICAL,
	MCR_LEVEL_ERROR,
	MCR_LEVEL_WARNING,
	MCR_LEVEL_NOTICE,
	MCR_LEVEL_INFO,
	MCR_LEVEL_DEBUG,
	MCR_LEVEL_TRACE,
};

/* The facilities that speak in a worker; numbered as in mcr/model/log.py. */
enum mcr_facility {
	MCR_FACILITY_WORKER = 5,
	MCR_FACILITY_INGRESS = 6,
	MCR_FACILITY_EGRESS = 7,
};

enum mcr_log_code {
	MCR_LOG_STARTED, /* engine, errno that io_uring was refused with */
	MCR_LOG_LEVELS_CHANGED,
	MCR_LOG_GENERATION_APPLIED, /* generation, rules held */
	MCR_LOG_CAPTURE_ATTACHED,   /* capture, frames, frame size */
	MCR_LOG_CAPTURE_DETACHED,   /* capture, packets taken from it */
	MCR_LOG_CAPTURE_ERROR,      /* capture, errno */
	MCR_LOG_RECOVERED,          /* capture, packets in doubt */
	MCR_LOG_DRAINED,
	MCR_LOG_JOURNAL_BROKEN,
	MCR_LOG_NO_MATCH,      /* capture, group, port; both in network byte order */
	MCR_LOG_NO_MATCH6,     /* capture | port << 32, group in two halves */
	MCR_LOG_PARSE_ERROR,   /* capture, errno, length of the frame */
	MCR_LOG_DROPPED,       /* capture, enum mcr_cause, source address in network byte order */
	MCR_LOG_DROPPED6,      /* capture | enum mcr_cause << 32, source address in two halves */
	MCR_LOG_LOOP,          /* capture, group | port << 32, source address; all in network byte order */
	MCR_LOG_LOOP6,         /* capture | port << 32, source address in two halves */
	MCR_LOG_FORWARDED,     /* rule, outputs, payload bytes */
	MCR_LOG_SEND_FAILED,   /* output, errno, payload bytes */
	MCR_LOG_NO_BUFFER,     /* capture, length of the frame */
	MCR_LOG_UNCUT,         /* capture, length of the frame */
	MCR_LOG_TRAIN_REFUSED, /* output, errno */
	MCR_LOG_NOT_CONFINED,  /* errno */
	MCR_LOG_CODES
};

#endif
