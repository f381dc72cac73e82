// SPDX-License-Identifier: MIT
#include "bpf/path.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/membarrier.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "ring.h"

#define SCRATCH_BYTES 520
#define STRAY_NS      (MCR_SECOND_NS / 2)

/* One of the maps: an array of so many values, or by flow or source. */
struct plan {
	int *map;
	uint32_t type, key_size, value_size, count, flags;
};

static int open_all(const struct plan *plans, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct plan *plan = &plans[i];
		int ret = mcr_bpf_open_map(plan->type, plan->key_size, plan->value_size, plan->count, plan->flags);

		if (ret < 0)
			return ret;
		*plan->map = ret;
	}
	return 0;
}

/* Whether a map is as it would be made. */
static bool is_as_planned(const struct plan *plan)
{
	struct bpf_map_info info = { 0 };
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = (uint32_t)*plan->map;
	attr.info.info_len = sizeof(info);
	attr.info.info = (uintptr_t)&info;
	return !mcr_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) && info.type == plan->type && info.key_size == plan->key_size &&
	       info.value_size == plan->value_size && info.max_entries == plan->count && info.map_flags == plan->flags;
}

static bool are_as_planned(const struct plan *plans, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (!is_as_planned(&plans[i]))
			return false;
	return true;
}

#define COUNTERS 3

static void plan_counters(struct mcr_bpf_counters *counters, struct plan plans[COUNTERS])
{
	const uint32_t index = sizeof(uint32_t), shared = BPF_F_MMAPABLE;
	const struct plan made[COUNTERS] = {
		{ &counters->taken, BPF_MAP_TYPE_PERCPU_ARRAY, index, sizeof(struct mcr_bpf_taken), MCR_MAX_INTERFACES,
		  0 },
		{ &counters->rules, BPF_MAP_TYPE_ARRAY, index, sizeof(struct mcr_rule_counters), MCR_MAX_RULES,
		  shared },
		{ &counters->outputs, BPF_MAP_TYPE_ARRAY, index, sizeof(struct mcr_output_counters), MCR_MAX_OUTPUTS,
		  shared },
	};

	memcpy(plans, made, sizeof(made));
}

int mcr_bpf_counters_open(struct mcr_bpf_counters *counters)
{
	struct plan plans[COUNTERS];
	int ret = -E2BIG;

	*counters = (struct mcr_bpf_counters){ -1, -1, -1 };
	plan_counters(counters, plans);
	if (sysconf(_SC_NPROCESSORS_CONF) <= MCR_BPF_MAX_CPUS)
		ret = open_all(plans, COUNTERS);
	if (ret)
		mcr_bpf_counters_close(counters);
	return ret;
}

int mcr_bpf_counters_check(struct mcr_bpf_counters *counters)
{
	struct plan plans[COUNTERS];

	plan_counters(counters, plans);
	return are_as_planned(plans, COUNTERS) ? 0 : -EINVAL;
}

void mcr_bpf_counters_close(struct mcr_bpf_counters *counters)
{
	int maps[] = { counters->taken, counters->rules, counters->outputs };

	for (uint32_t i = 0; i < COUNTERS; i++)
		if (maps[i] >= 0)
			close(maps[i]);
	*counters = (struct mcr_bpf_counters){ -1, -1, -1 };
}

/* What outlives mcrd, beside the counters. */
#define HANDS 2

static void plan_hands(struct mcr_bpf_path *path, struct plan plans[HANDS])
{
	const uint32_t index = sizeof(uint32_t);
	const struct plan made[HANDS] = {
		{ &path->gates, BPF_MAP_TYPE_ARRAY, index, sizeof(struct mcr_bpf_gate), MCR_MAX_INTERFACES,
		  BPF_F_MMAPABLE },
		{ &path->hand, BPF_MAP_TYPE_PERCPU_ARRAY, index, sizeof(struct mcr_bpf_hand), 1, 0 },
	};

	memcpy(plans, made, sizeof(made));
}

int mcr_bpf_path_check(struct mcr_bpf_path *path)
{
	struct plan plans[HANDS];

	plan_hands(path, plans);
	return are_as_planned(plans, HANDS) ? 0 : -EINVAL;
}

int mcr_bpf_path_open(struct mcr_bpf_path *path, uint32_t workers, const struct mcr_bpf_counters *counters)
{
	const uint32_t index = sizeof(uint32_t), shared = BPF_F_MMAPABLE, grows = BPF_F_NO_PREALLOC;
	const struct plan plans[] = {
		{ &path->own, BPF_MAP_TYPE_HASH, sizeof(uint64_t), 1, MCR_MAX_OWN, grows },
		{ &path->own_bits, BPF_MAP_TYPE_ARRAY, index, MCR_OWN_BITS / 8, 1, shared }, /* so it begins a line */
		{ &path->drains, BPF_MAP_TYPE_ARRAY, index, sizeof(struct mcr_bpf_drain), MCR_MAX_INTERFACES * workers,
		  shared },
		{ &path->forwards, BPF_MAP_TYPE_HASH, MCR_FLOW_IPV4_BYTES, sizeof(struct mcr_bpf_rule), MCR_MAX_RULES,
		  grows },
		{ &path->forwards6, BPF_MAP_TYPE_HASH, sizeof(struct mcr_flow), sizeof(struct mcr_bpf_rule6),
		  MCR_MAX_RULES, grows },
		{ &path->scratch, BPF_MAP_TYPE_PERCPU_ARRAY, index, SCRATCH_BYTES, 1, 0 },
	};
	struct plan hands[HANDS];
	int ret = -E2BIG;

	*path = (struct mcr_bpf_path){ workers, *counters, -1, -1, -1, -1, -1, -1, -1, -1 };
	plan_hands(path, hands);
	if (workers <= MCR_BPF_WORKERS)
		ret = open_all(hands, HANDS);
	if (!ret)
		ret = open_all(plans, sizeof(plans) / sizeof(*plans));
	if (ret)
		mcr_bpf_path_close(path);
	return ret;
}

void mcr_bpf_path_close(struct mcr_bpf_path *path)
{
	int *maps[] = { &path->own,    &path->own_bits, &path->gates,     &path->hand,
			&path->drains, &path->forwards, &path->forwards6, &path->scratch };

	for (uint32_t i = 0; i < sizeof(maps) / sizeof(*maps); i++) {
		if (*maps[i] >= 0)
			close(*maps[i]);
		*maps[i] = -1;
	}
}

int mcr_bpf_path_put(const struct mcr_bpf_path *path, const struct mcr_flow *flow, struct mcr_bpf_rule *rule)
{
	return mcr_bpf_put_value(path->forwards, flow, rule);
}

int mcr_bpf_path_put6(const struct mcr_bpf_path *path, const struct mcr_flow *flow, struct mcr_bpf_rule6 *rule)
{
	return mcr_bpf_put_value(path->forwards6, flow, rule);
}

int mcr_bpf_path_drop(const struct mcr_bpf_path *path, const struct mcr_flow *flow)
{
	int map = flow->family == MCR_FLOW_IPV6 ? path->forwards6 : path->forwards;

	return mcr_bpf_change(BPF_MAP_DELETE_ELEM, map, flow, NULL);
}

int mcr_bpf_path_own(const struct mcr_bpf_path *path, uint64_t key, bool own)
{
	uint8_t value = 1;

	return own ? mcr_bpf_put_value(path->own, &key, &value)
		   : mcr_bpf_change(BPF_MAP_DELETE_ELEM, path->own, &key, NULL);
}

int mcr_bpf_path_own_bits(const struct mcr_bpf_path *path, uint8_t bits[MCR_OWN_BITS / 8])
{
	uint32_t index = 0;

	return mcr_bpf_put_value(path->own_bits, &index, bits);
}

int mcr_bpf_counters_start(const struct mcr_bpf_counters *counters, uint32_t capture)
{
	struct mcr_bpf_taken by_cpu[MCR_BPF_MAX_CPUS];

	memset(by_cpu, 0, sizeof(by_cpu));
	return mcr_bpf_change(BPF_MAP_UPDATE_ELEM, counters->taken, &capture, by_cpu);
}

/* What the kernel path has done with one, whatever that is. */
static uint64_t done_in(const struct mcr_bpf_taken *taken)
{
	return taken->matched + taken->checksum + taken->lost;
}

/* Which processors have done what with captures of which something is handed over. */
static int note_done(const struct mcr_bpf_counters *counters, const struct mcr_bpf_hand hands[], uint64_t done[])
{
	struct mcr_bpf_taken by_cpu[MCR_BPF_MAX_CPUS];
	uint32_t capture = UINT32_MAX;

	memset(by_cpu, 0, sizeof(by_cpu));
	for (uint32_t i = 0; i < MCR_BPF_MAX_CPUS; i++) {
		int ret = 0;

		if (hands[i].path != PATH_KERNEL)
			continue;
		if (hands[i].capture != capture)
			ret = mcr_bpf_change(BPF_MAP_LOOKUP_ELEM, counters->taken, &hands[i].capture, by_cpu);
		if (ret)
			return ret;
		capture = hands[i].capture;
		done[i] = done_in(&by_cpu[i]);
	}
	return 0;
}

/* What is handed over, by processor, and is of captures that still have their slots. */
static int read_hands(const struct mcr_bpf_path *path, struct mcr_bpf_hand hands[MCR_BPF_MAX_CPUS])
{
	struct mcr_bpf_gate gate;
	uint32_t index = 0;
	int ret;

	memset(hands, 0, MCR_BPF_MAX_CPUS * sizeof(*hands));
	ret = mcr_bpf_change(BPF_MAP_LOOKUP_ELEM, path->hand, &index, hands);
	for (uint32_t i = 0; !ret && i < MCR_BPF_MAX_CPUS; i++) {
		if (hands[i].path != PATH_KERNEL)
			continue;
		ret = mcr_bpf_change(BPF_MAP_LOOKUP_ELEM, path->gates, &hands[i].capture, &gate);
		if (!ret && hands[i].epoch < gate.first)
			hands[i].path = PATH_NONE;
	}
	return ret;
}

int mcr_bpf_path_look(const struct mcr_bpf_path *path, struct mcr_bpf_stray strays[])
{
	struct mcr_bpf_hand before[MCR_BPF_MAX_CPUS], now[MCR_BPF_MAX_CPUS];
	uint64_t done[MCR_BPF_MAX_CPUS] = { 0 }, time = mcr_clock_ns(CLOCK_MONOTONIC);
	int ret = read_hands(path, before);

	if (!ret)
		ret = note_done(&path->counters, before, done);
	if (!ret) /* once more: what was handed over before may have been done by then, and is this */
		ret = read_hands(path, now);
	for (uint32_t i = 0; !ret && i < MCR_BPF_MAX_CPUS; i++) {
		struct mcr_bpf_stray *stray = &strays[i];
		bool is_there = before[i].path == PATH_KERNEL && now[i].path == PATH_KERNEL &&
				before[i].capture == now[i].capture;

		if (!is_there)
			*stray = (struct mcr_bpf_stray){ 0 };
		else if (!stray->since || stray->capture != now[i].capture || stray->done != done[i])
			*stray = (struct mcr_bpf_stray){ time, done[i], now[i].capture, now[i].datagrams };
	}
	return ret;
}

int mcr_bpf_path_look_back(const struct mcr_bpf_path *path, struct mcr_bpf_stray strays[])
{
	int ret = mcr_bpf_path_look(path, strays);
	uint64_t time;

	if (!ret)
		ret = mcr_bpf_path_wait();
	time = mcr_clock_ns(CLOCK_MONOTONIC);
	if (!ret)
		ret = mcr_bpf_path_look(path, strays);
	for (uint32_t i = 0; !ret && i < MCR_BPF_MAX_CPUS; i++)
		if (strays[i].since && strays[i].since < time)
			strays[i].since -= STRAY_NS;
	return ret;
}

/* Of one processor. Nobody else writes it. */
static int add_lost(const struct mcr_bpf_counters *counters, uint32_t processor, const struct mcr_bpf_hand *hand)
{
	struct mcr_bpf_taken by_cpu[MCR_BPF_MAX_CPUS];
	int ret;

	memset(by_cpu, 0, sizeof(by_cpu));
	ret = mcr_bpf_change(BPF_MAP_LOOKUP_ELEM, counters->taken, &hand->capture, by_cpu);
	by_cpu[processor].lost += hand->datagrams;
	return ret ? ret : mcr_bpf_change(BPF_MAP_UPDATE_ELEM, counters->taken, &hand->capture, by_cpu);
}

/* Leave what is handed over to nobody: `now` is that, of each processor. */
static int clear_hands(const struct mcr_bpf_path *path, const struct mcr_bpf_hand now[MCR_BPF_MAX_CPUS])
{
	struct mcr_bpf_hand none[MCR_BPF_MAX_CPUS];
	uint32_t index = 0;

	memcpy(none, now, sizeof(none));
	for (uint32_t i = 0; i < MCR_BPF_MAX_CPUS; i++)
		none[i].path = PATH_NONE;
	return mcr_bpf_change(BPF_MAP_UPDATE_ELEM, path->hand, &index, none);
}

int mcr_bpf_path_settle(const struct mcr_bpf_path *path)
{
	struct mcr_bpf_hand hands[MCR_BPF_MAX_CPUS];
	int ret = read_hands(path, hands);

	if (!ret) /* first: if mcrd is killed in between, the next one counts too few, and not twice */
		ret = clear_hands(path, hands);
	for (uint32_t i = 0; !ret && i < MCR_BPF_MAX_CPUS; i++)
		if (hands[i].path == PATH_KERNEL)
			ret = add_lost(&path->counters, i, &hands[i]);
	return ret;
}

/* What is handed over takes some microseconds to be done, unless it is lost. */
static bool is_lost(const struct mcr_bpf_stray *stray, uint32_t capture, const struct mcr_bpf_taken *taken,
		    uint64_t time)
{
	return stray->since && stray->capture == capture && stray->done == done_in(taken) &&
	       time - stray->since >= STRAY_NS;
}

int mcr_bpf_counters_taken(const struct mcr_bpf_counters *counters, uint32_t capture,
			   const struct mcr_bpf_stray strays[], struct mcr_bpf_taken *taken)
{
	struct mcr_bpf_taken by_cpu[MCR_BPF_MAX_CPUS]; /* a value for each possible processor */
	uint64_t time = mcr_clock_ns(CLOCK_MONOTONIC);
	int ret;

	memset(by_cpu, 0, sizeof(by_cpu));
	ret = mcr_bpf_change(BPF_MAP_LOOKUP_ELEM, counters->taken, &capture, by_cpu);
	*taken = (struct mcr_bpf_taken){ 0 };
	for (uint32_t i = 0; i < MCR_BPF_MAX_CPUS; i++) {
		taken->matched += by_cpu[i].matched;
		taken->checksum += by_cpu[i].checksum;
		taken->lost += by_cpu[i].lost;
		taken->lost += is_lost(&strays[i], capture, &by_cpu[i], time) ? strays[i].datagrams : 0;
		taken->sent += by_cpu[i].sent;
		taken->errors += by_cpu[i].errors;
		taken->bytes += by_cpu[i].bytes;
	}
	return ret;
}

void mcr_bpf_path_enter(struct mcr_bpf_drain *drains, uint32_t workers, uint32_t capture)
{
	for (uint32_t i = 0; i < workers; i++)
		mcr_add_shared(&drains[capture * workers + i].entered, 1);
}

int mcr_bpf_path_wait(void)
{
	return syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) ? -errno : 0;
}
