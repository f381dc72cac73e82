/* SPDX-License-Identifier: MIT */
/*
 * The kernel path's maps, as the supervisor uses them: which rules the program at the ingress forwards by, through which
 * captures' gates it gets packets, and what it counts. All functions give 0 or -errno.
 */
#ifndef MCR_BPF_PATH_H
#define MCR_BPF_PATH_H

#include "bpf/load.h"
#include "own.h"
#include "shm_abi.h"

/* Make the counters' maps, which outlive mcrd. -E2BIG: more processors than there is room for. */
int mcr_bpf_counters_open(struct mcr_bpf_counters *counters);
void mcr_bpf_counters_close(struct mcr_bpf_counters *counters);

/* -EINVAL: these descriptors are not such maps. */
int mcr_bpf_counters_check(struct mcr_bpf_counters *counters);

/* Count for another capture in this slot, from zero. */
int mcr_bpf_counters_start(const struct mcr_bpf_counters *counters, uint32_t capture);

/*
 * Datagrams of a capture that a processor has handed over, and that nobody had taken up when it was looked at first. `done`:
 * what the kernel path had done there by then. As long as it is the same, these are still there: another program has them.
 */
struct mcr_bpf_stray {
	uint64_t since; /* CLOCK_MONOTONIC, ns; 0: there are none */
	uint64_t done;
	uint32_t capture;
	uint32_t datagrams;
};

/* What was done with a capture's datagrams so far, on all processors, with strays (by processor) that are lost by now. */
int mcr_bpf_counters_taken(const struct mcr_bpf_counters *counters, uint32_t capture,
			   const struct mcr_bpf_stray strays[], struct mcr_bpf_taken *taken);

/* Look for strays: the next packet on their processor would count them, but there may be none. */
int mcr_bpf_path_look(const struct mcr_bpf_path *path, struct mcr_bpf_stray strays[]);

/* The same at once: what is there before and after all packets have been dealt with is lost. */
int mcr_bpf_path_look_back(const struct mcr_bpf_path *path, struct mcr_bpf_stray strays[]);

/* Count in the maps what is lost. No filter that hands over by this path may run any more, and none that counts. */
int mcr_bpf_path_settle(const struct mcr_bpf_path *path);

/* -EINVAL: its `hand` and `gates` are not such maps. */
int mcr_bpf_path_check(struct mcr_bpf_path *path);

/* Make all other maps. `counters` stay the caller's. -E2BIG: more workers than there is room for. */
int mcr_bpf_path_open(struct mcr_bpf_path *path, uint32_t workers, const struct mcr_bpf_counters *counters);
void mcr_bpf_path_close(struct mcr_bpf_path *path);

/*
 * Forward a flow by this rule: from the next packet on, in all its outputs at once. The memory of the rule that it replaces,
 * or that is dropped, is used for the next one that is put: before that, wait for packets that are being forwarded by it.
 */
int mcr_bpf_path_put(const struct mcr_bpf_path *path, const struct mcr_flow *flow, struct mcr_bpf_rule *rule);
int mcr_bpf_path_put6(const struct mcr_bpf_path *path, const struct mcr_flow *flow, struct mcr_bpf_rule6 *rule);
int mcr_bpf_path_drop(const struct mcr_bpf_path *path, const struct mcr_flow *flow);

/* A source that this machine sends with (own.h), or has ceased to send with. */
int mcr_bpf_path_own(const struct mcr_bpf_path *path, uint64_t key, bool own);

/* Those of which a bit is not set (mcr_own_bit) are not looked up. */
int mcr_bpf_path_own_bits(const struct mcr_bpf_path *path, uint8_t bits[MCR_OWN_BITS / 8]);

/* Have every worker look whether a capture's ring is empty, before a packet may overtake what is in it. `drains`: mapped. */
void mcr_bpf_path_enter(struct mcr_bpf_drain *drains, uint32_t workers, uint32_t capture);

/* Wait until no processor deals with a packet that a filter has decided upon before. */
int mcr_bpf_path_wait(void);

#endif
