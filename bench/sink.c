// SPDX-License-Identifier: MIT
/*
 * Counting sink: an XDP program on each interface counts what arrives for one UDP port, and drops everything.
 *
 * XDP at the far end is what makes veth honest: the near end may not hand over super-frames then, so the relay's
 * kernel cuts them, as it has to for most network cards. The program is assembled here and attached by a link, which
 * goes when this process does: no compiler, no libbpf, nothing left behind.
 *
 * "ready" on stdout, then one line of JSON for every line on stdin.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_INTERFACES 64
#define MAX_CPUS       1024 /* the kernel writes an entry for each processor there could ever be */

/* Slots of an interface's map. */
enum { COUNTED, OTHER, SLOTS };

struct count {
	uint64_t packets, bytes;
};

struct sink {
	const char *interface;
	int map;
};

static void die(const char *what)
{
	fprintf(stderr, "Error: sink: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int create_map(void)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_PERCPU_ARRAY,
		.key_size = sizeof(uint32_t),
		.value_size = sizeof(struct count),
		.max_entries = SLOTS,
	};

	return bpf(BPF_MAP_CREATE, &attr);
}

#define INSN(op, d, s, o, i) \
	((struct bpf_insn){ .code = (op), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (int32_t)(i) })
#define LOAD(size, d, s, o)  INSN(BPF_LDX | BPF_MEM | (size), d, s, o, 0)
#define STORE(size, d, o, s) INSN(BPF_STX | BPF_MEM | (size), d, s, o, 0)
#define SET(size, d, o, i)   INSN(BPF_ST | BPF_MEM | (size), d, 0, o, i)
#define MOVE(d, s)           INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define CONST(d, i)          INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD(d, i)            INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define ADD_REG(d, s)        INSN(BPF_ALU64 | BPF_ADD | BPF_X, d, s, 0, 0)
#define SUB_REG(d, s)        INSN(BPF_ALU64 | BPF_SUB | BPF_X, d, s, 0, 0)
#define IF_ABOVE(d, s, o)    INSN(BPF_JMP | BPF_JGT | BPF_X, d, s, o, 0)
#define IF_NOT(d, i, o)      INSN(BPF_JMP | BPF_JNE | BPF_K, d, 0, o, i)
#define CALL(f)              INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define EXIT()               INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

static int load_program(int map, uint16_t port)
{
	/* clang-format off */
	const struct bpf_insn program[] = {
		LOAD(BPF_W, 6, 1, 0),		     /* r6 = data */
		LOAD(BPF_W, 7, 1, 4),		     /* r7 = data_end */
		SET(BPF_W, 10, -4, OTHER),	     /* key = OTHER, unless: */
		MOVE(2, 6), ADD(2, 42),		     /* Ethernet, IPv4 without options, UDP */
		IF_ABOVE(2, 7, 7),		     /* -> look up */
		LOAD(BPF_H, 2, 6, 12), IF_NOT(2, htons(0x0800), 5), /* EtherType */
		LOAD(BPF_B, 2, 6, 23), IF_NOT(2, IPPROTO_UDP, 3),   /* protocol */
		LOAD(BPF_H, 2, 6, 36), IF_NOT(2, htons(port), 1),   /* destination port */
		SET(BPF_W, 10, -4, COUNTED),	     /* key = COUNTED */
		INSN(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map), INSN(0, 0, 0, 0, 0), /* look up */
		MOVE(2, 10), ADD(2, -4), CALL(BPF_FUNC_map_lookup_elem),
		IF_NOT(0, 0, 2), CONST(0, XDP_DROP), EXIT(),
		LOAD(BPF_DW, 1, 0, 0), ADD(1, 1), STORE(BPF_DW, 0, 0, 1),
		SUB_REG(7, 6), LOAD(BPF_DW, 1, 0, 8), ADD_REG(1, 7), STORE(BPF_DW, 0, 8, 1),
		CONST(0, XDP_DROP), EXIT(),
	};
	/* clang-format on */
	static char log[16384];
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_XDP,
		.insns = (uint64_t)(uintptr_t)program,
		.insn_cnt = sizeof(program) / sizeof(program[0]),
		.license = (uint64_t)(uintptr_t)"GPL",
		.log_buf = (uint64_t)(uintptr_t)log,
		.log_size = sizeof(log),
		.log_level = 1,
	};
	int fd = bpf(BPF_PROG_LOAD, &attr);

	if (fd < 0) {
		fputs(log, stderr);
		die("BPF_PROG_LOAD");
	}
	return fd;
}

static void attach(int program, const char *interface)
{
	union bpf_attr attr = { 0 };

	attr.link_create.prog_fd = (uint32_t)program;
	attr.link_create.target_ifindex = if_nametoindex(interface);
	attr.link_create.attach_type = BPF_XDP;
	attr.link_create.flags = XDP_FLAGS_DRV_MODE;
	if (!attr.link_create.target_ifindex)
		die(interface);
	if (bpf(BPF_LINK_CREATE, &attr) < 0) /* the descriptor stays open as long as we live */
		die("BPF_LINK_CREATE");
}

static struct count read_slot(int map, uint32_t slot)
{
	struct count each[MAX_CPUS] = { 0 }, sum = { 0, 0 };
	union bpf_attr attr = { 0 };

	attr.map_fd = (uint32_t)map;
	attr.key = (uint64_t)(uintptr_t)&slot;
	attr.value = (uint64_t)(uintptr_t)each;
	if (bpf(BPF_MAP_LOOKUP_ELEM, &attr))
		die("BPF_MAP_LOOKUP_ELEM");
	for (unsigned int cpu = 0; cpu < MAX_CPUS; cpu++) {
		sum.packets += each[cpu].packets;
		sum.bytes += each[cpu].bytes;
	}
	return sum;
}

static void report(const struct sink *sinks, int count)
{
	putchar('[');
	for (int i = 0; i < count; i++) {
		struct count counted = read_slot(sinks[i].map, COUNTED);
		struct count other = read_slot(sinks[i].map, OTHER);

		printf("%s{\"interface\": \"%s\", \"packets\": %lu, \"bytes\": %lu, \"other\": %lu}", i ? ", " : "",
		       sinks[i].interface, counted.packets, counted.bytes, other.packets);
	}
	puts("]");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct sink sinks[MAX_INTERFACES];
	int count = argc - 2;
	char line[16];

	if (count < 1 || count > MAX_INTERFACES) {
		fprintf(stderr, "usage: sink PORT INTERFACE...\n");
		return 2;
	}
	for (int i = 0; i < count; i++) {
		sinks[i] = (struct sink){ .interface = argv[i + 2], .map = create_map() };
		if (sinks[i].map < 0)
			die("BPF_MAP_CREATE");
		attach(load_program(sinks[i].map, (uint16_t)atoi(argv[1])), sinks[i].interface);
	}
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		report(sinks, count);
	return 0;
}
