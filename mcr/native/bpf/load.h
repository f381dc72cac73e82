/* SPDX-License-Identifier: MIT */
/*
 * eBPF programs that look at every frame of an input interface before a worker does, and the maps that they share.
 *
 * Written in C (*.bpf.c), compiled by developers (tools/build_bpf.py), and loaded by bpf(2) alone: no compiler, no library,
 * nothing that stays behind when the descriptors are closed. All functions give a descriptor or 0, or -errno; -EPERM
 * without CAP_BPF (or CAP_SYS_ADMIN), -EINVAL on a kernel that lacks something, -EOPNOTSUPP on a big-endian processor.
 */
#ifndef MCR_BPF_LOAD_H
#define MCR_BPF_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "bpf/abi.h"
#include "flow.h"

union bpf_attr;

#define MCR_BPF_MAX_CPUS 1024

/* Maps that the kernel path counts in (path.h), by descriptor: for captures, rules, outputs. */
struct mcr_bpf_counters {
	int taken, rules, outputs;
};

/* All maps of the kernel path. */
struct mcr_bpf_path {
	uint32_t workers;
	struct mcr_bpf_counters counters;
	int own, own_bits, gates, hand, drains, forwards, forwards6, scratch;
};

/*
 * Maps of the streams whose health is watched: their numbers by flow, the streams by number, what is told of them, a
 * ring for each processor, and memory for the filter.
 */
struct mcr_bpf_tap {
	int watched, streams, rings, media;
	uint32_t processors;
	uint32_t slots;    /* of each ring */
	uint32_t from_skb; /* numbers of functions of the kernel (types.h); 0: it has none */
	uint32_t slice;
};

/* What differs between the filters of a capture's sockets. */
struct mcr_bpf_filter {
	uint32_t capture;
	uint32_t worker;
	bool clip;
	bool everything;
	bool sourced;
	bool bare;                     /* there is no link layer */
	const struct mcr_bpf_tap *tap; /* NULL: no stream is watched */
};

/* What differs between the programs at an interface's ingress. */
struct mcr_bpf_ingress {
	uint32_t capture;
	bool bare; /* there is no link layer */
	bool ipv6; /* the kernel path takes IPv6, which takes the kernel's verifier twice as long */
};

/* A map of the wanted flows and their VLANs, with room for those of a reload, too. Takes memory only for those in it. */
int mcr_bpf_open_wanted(void);

/* A map of datagrams rejected, by capture. -E2BIG: more processors than `mcr_bpf_count` can add up. */
int mcr_bpf_open_rejected(void);

/* Up to the first that fails. */
int mcr_bpf_put(int wanted, const struct mcr_flow *flows, uint32_t count);
int mcr_bpf_drop(int wanted, const struct mcr_flow *flow);

/* How many datagrams of a capture were rejected so far. */
int mcr_bpf_count(int rejected, uint32_t capture, uint64_t *count);

/* Make the maps of a tap. -EINVAL: this kernel has none that can be mapped (before 5.5). */
int mcr_bpf_tap_open(struct mcr_bpf_tap *tap);
void mcr_bpf_tap_close(struct mcr_bpf_tap *tap);

/* How many there are by number, from 0 to the last of a list such as "0-3,8-11". 0: it names none. */
uint32_t mcr_bpf_processors_in(const char *list);

/* Bytes from one ring to the next. */
uint64_t mcr_bpf_tap_step(const struct mcr_bpf_tap *tap);

/* Tell of a flow as the stream of this number, or no more. */
int mcr_bpf_tap_put(const struct mcr_bpf_tap *tap, const struct mcr_flow *flow, uint32_t number);
int mcr_bpf_tap_drop(const struct mcr_bpf_tap *tap, const struct mcr_flow *flow);

/*
 * A socket filter for a capture's sockets (SO_ATTACH_BPF, socket(7)): lets in UDP that a rule wants, and whatever
 * claims to be UDP but can't be told from its headers, which is for the worker to count; also what has IPv6 extension
 * headers, for the worker to look behind, unless it is a fragment to a group of which no rule wants anything. Counts the UDP that it rejects; other frames, and VLANs of which no rule
 * wants anything, are nobody's business. Where the kernel can't tell a worker how to cut a super-frame, `clip` it, so
 * that the worker at least counts what is in it. `everything`: as if rules wanted all UDP. `sourced`: some rule of the
 * capture names its source; without that none is looked for. With a kernel path, it leaves to that what it may
 * forward.
 */
int mcr_bpf_load_filter(int wanted, int rejected, const struct mcr_bpf_path *path, const struct mcr_bpf_filter *filter);

/*
 * A program for an interface's ingress: with a kernel path for all of them that have a link layer, without one for
 * that of a capture. With a kernel path, it forwards what the filter has left to it. And it suppresses local delivery:
 * marks what a rule wants, once it has been captured, as meant for another host, unless a UDP socket of this machine
 * could take it, too. IP drops that at once, and does no route look-up for a packet that nobody is there for. Whoever
 * takes packets below IP still gets it; where nobody does, what has been forwarded is dropped right there. The first
 * packet of each tick of the kernel's clock is left alone, on each processor (bpf_jiffies64, from Linux 5.6 on).
 */
int mcr_bpf_load_ingress(int wanted, int rejected, const struct mcr_bpf_path *path,
			 const struct mcr_bpf_ingress *ingress);

/* Run it there, until all descriptors of the link are closed, or mcr_bpf_unlink. From kernel 6.6 on (tcx). */
int mcr_bpf_link_ingress(int program, uint32_t interface);

/* Run another program in its place, from one packet to the next. */
int mcr_bpf_relink(int link, int program);

/* End it at once, whoever holds the link, and close this descriptor. */
void mcr_bpf_unlink(int link);

/*
 * How many programs look at what a control group's UDP sockets send (BPF_CGROUP_INET_EGRESS, BPF_CGROUP_UDP4_SENDMSG and …UDP6…),
 * those of its parents included; -errno. `group`: a descriptor of its directory in cgroup2.
 */
int mcr_bpf_count_egress(int group);

/* How many programs run at an interface's ingress by tcx; -errno. */
int mcr_bpf_count_ingress(uint32_t interface);

/* For path.c: bpf(2), a new map, an entry of one. */
int mcr_bpf(int command, union bpf_attr *attr);
int mcr_bpf_open_map(uint32_t type, uint32_t key_size, uint32_t value_size, uint32_t max_entries, uint32_t flags);
int mcr_bpf_change(int command, int map, const void *key, void *value);
int mcr_bpf_put_value(int map, const void *key, void *value);

#endif
