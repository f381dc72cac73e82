// SPDX-License-Identifier: MIT
#include "bpf/load.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bpf/functions.h"
#include "bpf/programs.h"
#include "bpf/trim.h"
#include "bpf/types.h"
#include "shm_abi.h"

#define TCX_INGRESS 46 /* BPF_TCX_INGRESS, <linux/bpf.h> from Linux 6.6 on */

#define TRIES    20 /* to get memory for a key, or to load a program */
#define PAUSE_US 1000

#define MOST_SLOTS  131072u /* of a ring: 8 MiB, or 5,461 datagrams that are told whole */
#define LEAST_SLOTS 4096u
#define ALL_SLOTS   (1u << 20) /* of all processors, unless each has the least: 64 MiB */

#define IS_LITTLE_ENDIAN (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) /* as the programs are */

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* As it was compiled, without what differs between captures. */
struct program {
	uint32_t type;
	const struct bpf_insn *code;
	uint32_t length;
	const struct mcr_bpf_relocation *relocations;
	uint32_t relocation_count;
};

#define PROGRAM(name, kind)                                               \
	{                                                                 \
		.type = kind,                                             \
		.code = mcr_bpf_##name##_code,                            \
		.length = LENGTH(mcr_bpf_##name##_code),                  \
		.relocations = mcr_bpf_##name##_relocations,              \
		.relocation_count = LENGTH(mcr_bpf_##name##_relocations), \
	}

_Static_assert(LENGTH(mcr_bpf_filter_code) <= MCR_BPF_MAX_PROGRAM, "fits load()");
_Static_assert(LENGTH(mcr_bpf_ingress_code) <= MCR_BPF_MAX_PROGRAM, "fits load()");

int mcr_bpf(int command, union bpf_attr *attr)
{
	long ret = syscall(__NR_bpf, command, attr, sizeof(*attr));

	return ret < 0 ? -errno : (int)ret;
}

int mcr_bpf_open_map(uint32_t type, uint32_t key_size, uint32_t value_size, uint32_t max_entries, uint32_t flags)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr)); /* the kernel looks at what no field covers, too */
	attr.map_type = type;
	attr.key_size = key_size;
	attr.value_size = value_size;
	attr.max_entries = max_entries;
	attr.map_flags = flags;
	return mcr_bpf(BPF_MAP_CREATE, &attr);
}

int mcr_bpf_open_rejected(void)
{
	if (sysconf(_SC_NPROCESSORS_CONF) > MCR_BPF_MAX_CPUS)
		return -E2BIG;
	return mcr_bpf_open_map(BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(uint32_t), sizeof(uint64_t), MCR_MAX_INTERFACES, 0);
}

int mcr_bpf_change(int command, int map, const void *key, void *value)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (uint32_t)map;
	attr.key = (uintptr_t)key;
	attr.value = (uintptr_t)value;
	return mcr_bpf(command, &attr);
}

/*
 * From 6.1 on the kernel keeps some memory ready for maps, and gets more by an interrupt that it sends itself; where that
 * takes its time, many keys in a row find none.
 */
int mcr_bpf_put_value(int map, const void *key, void *value)
{
	int ret = -ENOMEM;

	for (int i = 0; i < TRIES && ret == -ENOMEM; i++) {
		if (i)
			usleep(PAUSE_US);
		ret = mcr_bpf_change(BPF_MAP_UPDATE_ELEM, map, key, value);
	}
	return ret;
}

int mcr_bpf_count(int rejected, uint32_t capture, uint64_t *count)
{
	uint64_t by_cpu[MCR_BPF_MAX_CPUS] = { 0 }; /* a value for each possible processor */
	int ret = mcr_bpf_change(BPF_MAP_LOOKUP_ELEM, rejected, &capture, by_cpu);

	*count = 0;
	for (uint32_t i = 0; i < MCR_BPF_MAX_CPUS; i++)
		*count += by_cpu[i];
	return ret;
}

uint64_t mcr_bpf_tap_step(const struct mcr_bpf_tap *tap)
{
	return sizeof(struct mcr_bpf_ring) + (uint64_t)MCR_BPF_SLOT * (tap->slots + MCR_BPF_SPARE_SLOTS);
}

uint32_t mcr_bpf_processors_in(const char *list)
{
	const char *end = list + strlen(list), *begin;

	while (end > list && !isdigit((unsigned char)end[-1]))
		end--;
	for (begin = end; begin > list && isdigit((unsigned char)begin[-1]);)
		begin--;
	return begin == end ? 0 : (uint32_t)strtoul(begin, NULL, 10) + 1;
}

/* By number: there may be gaps between those that this machine has, so that it has fewer (sysconf) than the last one says. */
static uint32_t count_processors(void)
{
	char list[4096] = "";
	int fd = open("/sys/devices/system/cpu/present", O_RDONLY | O_CLOEXEC);
	uint32_t count = 0;

	if (fd >= 0) {
		if (read(fd, list, sizeof(list) - 1) > 0)
			count = mcr_bpf_processors_in(list);
		close(fd);
	}
	return count ? count : (uint32_t)sysconf(_SC_NPROCESSORS_CONF);
}

/* As long as may be: older kernels let a value have 4 MiB (before 6.0). */
static int open_rings(struct mcr_bpf_tap *tap)
{
	int ret = -E2BIG;

	tap->processors = count_processors();
	for (tap->slots = MOST_SLOTS; ret < 0 && tap->slots >= LEAST_SLOTS; tap->slots /= 2) {
		if (tap->slots > LEAST_SLOTS && tap->slots * tap->processors > ALL_SLOTS)
			continue;
		ret = mcr_bpf_open_map(BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), (uint32_t)mcr_bpf_tap_step(tap),
				       tap->processors, BPF_F_MMAPABLE);
	}
	tap->slots *= 2;
	return ret;
}

/* Those that read packets where they lie. */
static void find_functions(struct mcr_bpf_tap *tap)
{
	static const char *const names[] = { "bpf_dynptr_from_skb", "bpf_dynptr_slice" };
	uint32_t numbers[LENGTH(names)];

	mcr_bpf_types_find(MCR_BPF_KERNEL_TYPES, names, numbers, LENGTH(names));
	tap->from_skb = numbers[0];
	tap->slice = numbers[1];
}

int mcr_bpf_tap_open(struct mcr_bpf_tap *tap)
{
	int ret;

	*tap = (struct mcr_bpf_tap){ .watched = -1, .streams = -1, .rings = -1, .media = -1 };
	tap->watched = ret = mcr_bpf_open_map(BPF_MAP_TYPE_HASH, MCR_FLOW_IPV4_BYTES, sizeof(uint32_t), MCR_MAX_RULES,
					      BPF_F_NO_PREALLOC);
	if (ret >= 0)
		tap->streams = ret = mcr_bpf_open_map(BPF_MAP_TYPE_ARRAY, sizeof(uint32_t),
						      sizeof(struct mcr_bpf_stream), MCR_MAX_RULES, BPF_F_MMAPABLE);
	if (ret >= 0)
		tap->rings = ret = open_rings(tap);
	if (ret >= 0)
		tap->media = ret = mcr_bpf_open_map(BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(uint32_t),
						    sizeof(struct mcr_bpf_media), 1, 0);
	if (ret < 0)
		mcr_bpf_tap_close(tap);
	else
		find_functions(tap);
	return ret < 0 ? ret : 0;
}

void mcr_bpf_tap_close(struct mcr_bpf_tap *tap)
{
	const int maps[] = { tap->watched, tap->streams, tap->rings, tap->media };

	for (uint32_t i = 0; i < LENGTH(maps); i++)
		if (maps[i] >= 0)
			close(maps[i]);
	*tap = (struct mcr_bpf_tap){ .watched = -1, .streams = -1, .rings = -1, .media = -1 };
}

int mcr_bpf_tap_put(const struct mcr_bpf_tap *tap, const struct mcr_flow *flow, uint32_t number)
{
	struct mcr_flow brief = mcr_flow_brief(flow);

	return mcr_bpf_put_value(tap->watched, &brief, &number);
}

int mcr_bpf_tap_drop(const struct mcr_bpf_tap *tap, const struct mcr_flow *flow)
{
	struct mcr_flow brief = mcr_flow_brief(flow);

	return mcr_bpf_change(BPF_MAP_DELETE_ELEM, tap->watched, &brief, NULL);
}

/*
 * The kernel's verifier gives up when a signal is pending. One that is blocked waits, but for work that the kernel itself
 * has for a process as for one with a signal (TIF_NOTIFY_SIGNAL): it is done when the call returns.
 */
static int load_without_signals(union bpf_attr *attr)
{
	sigset_t all, before;
	int ret = -EAGAIN;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (int i = 0; i < TRIES && ret == -EAGAIN; i++)
		ret = mcr_bpf(BPF_PROG_LOAD, attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret;
}

/* Load a program with these values filled in. */
static int load(const struct program *program, const uint32_t values[MCR_BPF_SYMBOLS])
{
	static const char license[] = "Dual MIT/GPL"; /* the kernel lets only GPL programs call some helpers */
	struct bpf_insn code[MCR_BPF_MAX_PROGRAM];
	struct mcr_bpf_functions functions;
	union bpf_attr attr;
	int ret, length;

	if (!IS_LITTLE_ENDIAN)
		return -EOPNOTSUPP;
	memcpy(code, program->code, program->length * sizeof(*code));
	for (uint32_t i = 0; i < program->relocation_count; i++)
		code[program->relocations[i].instruction].imm = (int32_t)values[program->relocations[i].symbol];
	length = mcr_bpf_trim(code, program->length);
	if (length < 0)
		return length;
	memset(&attr, 0, sizeof(attr));
	attr.prog_type = program->type;
	attr.insns = (uintptr_t)code;
	attr.insn_cnt = (uint32_t)length;
	attr.license = (uintptr_t)license;
	memcpy(attr.prog_name, "mcr", sizeof("mcr"));
	ret = mcr_bpf_functions_open(&functions, &attr, code);
	if (!ret)
		ret = load_without_signals(&attr);
	mcr_bpf_functions_close(&functions);
	return ret;
}

/* The kernel's loader looks at every map that a program names, also where the program can't get to it. */
static void fill_in(uint32_t values[MCR_BPF_SYMBOLS], int wanted, int rejected, const struct mcr_bpf_path *path)
{
	for (uint32_t i = 0; i < MCR_BPF_SYMBOLS; i++)
		values[i] = (uint32_t)wanted;
	values[MCR_BPF_MAP_REJECTED] = (uint32_t)rejected;
	values[MCR_BPF_PARAMETER_RELAY] = !!path;
	values[MCR_BPF_PARAMETER_WORKERS] = path ? path->workers : 0;
	if (!path)
		return;
	values[MCR_BPF_MAP_DRAINS] = (uint32_t)path->drains;
	values[MCR_BPF_MAP_FORWARDS] = (uint32_t)path->forwards;
	values[MCR_BPF_MAP_FORWARDS6] = (uint32_t)path->forwards6;
	values[MCR_BPF_MAP_GATES] = (uint32_t)path->gates;
	values[MCR_BPF_MAP_HAND] = (uint32_t)path->hand;
	values[MCR_BPF_MAP_OUTPUTS] = (uint32_t)path->counters.outputs;
	values[MCR_BPF_MAP_OWN] = (uint32_t)path->own;
	values[MCR_BPF_MAP_OWN_BITS] = (uint32_t)path->own_bits;
	values[MCR_BPF_MAP_RULES] = (uint32_t)path->counters.rules;
	values[MCR_BPF_MAP_SCRATCH] = (uint32_t)path->scratch;
	values[MCR_BPF_MAP_TAKEN] = (uint32_t)path->counters.taken;
}

static void fill_in_tap(uint32_t values[MCR_BPF_SYMBOLS], const struct mcr_bpf_tap *tap)
{
	values[MCR_BPF_MAP_WATCHED] = (uint32_t)tap->watched;
	values[MCR_BPF_MAP_STREAMS] = (uint32_t)tap->streams;
	values[MCR_BPF_MAP_RINGS] = (uint32_t)tap->rings;
	values[MCR_BPF_MAP_MEDIA] = (uint32_t)tap->media;
	values[MCR_BPF_FUNCTION_DYNPTR_FROM_SKB] = tap->from_skb;
	values[MCR_BPF_FUNCTION_DYNPTR_SLICE] = tap->slice;
	values[MCR_BPF_PARAMETER_SLOTS] = tap->slots;
	values[MCR_BPF_PARAMETER_LOOPS] = true;
	values[MCR_BPF_PARAMETER_SLICES] = tap->from_skb && tap->slice;
}

/* A filter that tells, by what this kernel has. */
static int load_telling(const struct program *program, uint32_t values[MCR_BPF_SYMBOLS])
{
	int ret = load(program, values);

	if (ret < 0 && values[MCR_BPF_PARAMETER_SLICES]) {
		values[MCR_BPF_PARAMETER_SLICES] = false;
		ret = load(program, values);
	}
	if (ret != -EINVAL)
		return ret;
	values[MCR_BPF_PARAMETER_LOOPS] = false;
	return load(program, values);
}

int mcr_bpf_load_filter(int wanted, int rejected, const struct mcr_bpf_path *path, const struct mcr_bpf_filter *filter)
{
	static const struct program program = PROGRAM(filter, BPF_PROG_TYPE_SOCKET_FILTER);
	uint32_t values[MCR_BPF_SYMBOLS];

	fill_in(values, wanted, rejected, path);
	values[MCR_BPF_PARAMETER_CAPTURE] = filter->capture;
	values[MCR_BPF_PARAMETER_WORKER] = filter->worker;
	values[MCR_BPF_PARAMETER_CLIP] = filter->clip;
	values[MCR_BPF_PARAMETER_EVERYTHING] = filter->everything;
	values[MCR_BPF_PARAMETER_SOURCED] = filter->sourced;
	values[MCR_BPF_PARAMETER_BARE] = filter->bare;
	values[MCR_BPF_PARAMETER_HEALTH] = !!filter->tap;
	if (!filter->tap)
		return load(&program, values);
	fill_in_tap(values, filter->tap);
	return load_telling(&program, values);
}

int mcr_bpf_load_ingress(int wanted, int rejected, const struct mcr_bpf_path *path,
			 const struct mcr_bpf_ingress *ingress)
{
	static const struct program program = PROGRAM(ingress, BPF_PROG_TYPE_SCHED_CLS);
	int ticks = mcr_bpf_open_map(BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(uint32_t), sizeof(uint64_t), 1, 0);
	uint32_t values[MCR_BPF_SYMBOLS];
	int ret;

	if (ticks < 0)
		return ticks;
	fill_in(values, wanted, rejected, path);
	values[MCR_BPF_MAP_TICKS] = (uint32_t)ticks;
	values[MCR_BPF_PARAMETER_CAPTURE] = ingress->capture;
	values[MCR_BPF_PARAMETER_BARE] = ingress->bare;
	values[MCR_BPF_PARAMETER_IPV6] = ingress->ipv6;
	ret = load(&program, values);
	close(ticks); /* the program keeps it */
	return ret;
}

int mcr_bpf_link_ingress(int program, uint32_t interface)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = (uint32_t)program;
	attr.link_create.target_ifindex = interface;
	attr.link_create.attach_type = TCX_INGRESS;
	return mcr_bpf(BPF_LINK_CREATE, &attr);
}

int mcr_bpf_relink(int link, int program)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.link_update.link_fd = (uint32_t)link;
	attr.link_update.new_prog_fd = (uint32_t)program;
	return mcr_bpf(BPF_LINK_UPDATE, &attr);
}

void mcr_bpf_unlink(int link)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.link_detach.link_fd = (uint32_t)link;
	mcr_bpf(BPF_LINK_DETACH, &attr); /* fails if the interface has gone, and with it what ran there */
	close(link);
}

static int count_programs(uint32_t target, uint32_t attach_type, uint32_t flags)
{
	union bpf_attr attr;
	int ret;

	memset(&attr, 0, sizeof(attr));
	attr.query.target_fd = target; /* of an interface its index */
	attr.query.attach_type = attach_type;
	attr.query.query_flags = flags;
	ret = mcr_bpf(BPF_PROG_QUERY, &attr);
	return ret ? ret : (int)attr.query.prog_cnt;
}

int mcr_bpf_count_egress(int group)
{
	int frames = count_programs((uint32_t)group, BPF_CGROUP_INET_EGRESS, BPF_F_QUERY_EFFECTIVE);
	int sends = count_programs((uint32_t)group, BPF_CGROUP_UDP4_SENDMSG, BPF_F_QUERY_EFFECTIVE);
	int sends6 = count_programs((uint32_t)group, BPF_CGROUP_UDP6_SENDMSG, BPF_F_QUERY_EFFECTIVE);

	if (frames < 0 || sends < 0)
		return frames < 0 ? frames : sends;
	return sends6 < 0 ? sends6 : frames + sends + sends6;
}

int mcr_bpf_count_ingress(uint32_t interface)
{
	return count_programs(interface, TCX_INGRESS, 0);
}
