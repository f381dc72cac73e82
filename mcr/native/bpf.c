// SPDX-License-Identifier: MIT
#include "bpf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shm_abi.h"

/* <linux/bpf.h> from kernel 6.6 on */
#define TCX_INGRESS 46
#define TCX_NEXT    (-1)

#define MAX_CPUS    1024
#define MAX_PROGRAM 160

#define TRIES    20 /* to get memory for a key */
#define PAUSE_US 1000

#define VLAN_ID 0x0fff /* in a tag's control information */

#define ACCEPT_WHOLE 0x40000 /* bytes: more than any frame has */

enum verdict { REJECT, ACCEPT, VERDICTS };

/* A program as it is written down: jumps to a verdict are known when both have got their place. */
struct program {
	struct bpf_insn code[MAX_PROGRAM];
	uint16_t length;
	struct {
		uint16_t at;
		enum verdict to;
	} jumps[MAX_PROGRAM];
	uint16_t jump_count;
};

/*
 * On the program's stack, below the frame pointer: ports, IP header (one behind the other, as most packets have them), key,
 * and what one of the programs has beside.
 */
#define PORTS     (-4)
#define IP_HEADER (PORTS - (int)sizeof(struct iphdr))
#define KEY       (IP_HEADER - (int)sizeof(struct mcr_bpf_key))
#define INDEX     (KEY - 8)
#define TUPLE     (KEY - 16) /* the absorber's; of IPv4 in struct bpf_sock_tuple: addresses, then ports */

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	long ret = syscall(__NR_bpf, command, attr, sizeof(*attr));

	return ret < 0 ? -errno : (int)ret;
}

static int open_map(uint32_t type, uint32_t key_size, uint32_t value_size, uint32_t max_entries, uint32_t flags)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr)); /* the kernel looks at what no field covers, too */
	attr.map_type = type;
	attr.key_size = key_size;
	attr.value_size = value_size;
	attr.max_entries = max_entries;
	attr.map_flags = flags;
	return bpf(BPF_MAP_CREATE, &attr);
}

int mcr_bpf_open_wanted(void)
{
	return open_map(BPF_MAP_TYPE_HASH, sizeof(struct mcr_bpf_key), sizeof(uint32_t), MCR_MAX_RULES,
			BPF_F_NO_PREALLOC);
}

int mcr_bpf_open_rejected(void)
{
	if (sysconf(_SC_NPROCESSORS_CONF) > MAX_CPUS)
		return -E2BIG;
	return open_map(BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(uint32_t), sizeof(uint64_t), MCR_MAX_INTERFACES, 0);
}

static int change(enum bpf_cmd command, int map, const void *key, void *value)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (uint32_t)map;
	attr.key = (uintptr_t)key;
	attr.value = (uintptr_t)value;
	return bpf(command, &attr);
}

/*
 * From 6.1 on the kernel keeps some memory ready for maps, and gets more by an interrupt that it sends itself; where that
 * takes its time, many keys in a row find none.
 */
int mcr_bpf_put(int wanted, const struct mcr_bpf_key *key)
{
	uint32_t value = 0;
	int ret = -ENOMEM;

	for (int i = 0; i < TRIES && ret == -ENOMEM; i++) {
		if (i)
			usleep(PAUSE_US);
		ret = change(BPF_MAP_UPDATE_ELEM, wanted, key, &value);
	}
	return ret;
}

int mcr_bpf_drop(int wanted, const struct mcr_bpf_key *key)
{
	return change(BPF_MAP_DELETE_ELEM, wanted, key, NULL);
}

int mcr_bpf_count(int rejected, uint32_t capture, uint64_t *count)
{
	uint64_t by_cpu[MAX_CPUS] = { 0 }; /* a value for each possible processor */
	int ret = change(BPF_MAP_LOOKUP_ELEM, rejected, &capture, by_cpu);

	*count = 0;
	for (uint32_t i = 0; i < MAX_CPUS; i++)
		*count += by_cpu[i];
	return ret;
}

static void emit(struct program *program, uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm)
{
	program->code[program->length++] = (struct bpf_insn){
		.code = code,
		.dst_reg = dst & 0xf,
		.src_reg = src & 0xf,
		.off = off,
		.imm = imm,
	};
}

static void load(struct program *program, uint8_t size, uint8_t dst, uint8_t src, int off)
{
	emit(program, BPF_LDX | size | BPF_MEM, dst, src, (int16_t)off, 0);
}

static void store(struct program *program, uint8_t size, int off, uint8_t src)
{
	emit(program, BPF_STX | size | BPF_MEM, BPF_REG_10, src, (int16_t)off, 0);
}

static void set(struct program *program, uint8_t dst, int32_t value)
{
	emit(program, BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value);
}

static void copy(struct program *program, uint8_t dst, uint8_t src)
{
	emit(program, BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
}

static void point(struct program *program, uint8_t dst, int off)
{
	copy(program, dst, BPF_REG_10);
	emit(program, BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, off);
}

static void point_to_map(struct program *program, uint8_t dst, int map)
{
	emit(program, BPF_LD | BPF_DW | BPF_IMM, dst, BPF_PSEUDO_MAP_FD, 0, map);
	emit(program, 0, 0, 0, 0, 0);
}

static void call(struct program *program, int32_t function)
{
	emit(program, BPF_JMP | BPF_CALL, 0, 0, 0, function);
}

/* Jump ahead, to where `land` is told this jump, if this register compares so with a number. */
static uint16_t emit_jump(struct program *program, uint8_t comparison, uint8_t reg, int32_t number)
{
	emit(program, BPF_JMP | comparison | BPF_K, reg, 0, 0, number);
	return (uint16_t)(program->length - 1);
}

static void land(struct program *program, uint16_t jump)
{
	program->code[jump].off = (int16_t)(program->length - jump - 1);
}

/* Go to a verdict if this register compares so with a number. */
static void judge(struct program *program, uint8_t comparison, uint8_t reg, int32_t number, enum verdict verdict)
{
	program->jumps[program->jump_count].at = program->length;
	program->jumps[program->jump_count++].to = verdict;
	emit(program, BPF_JMP | comparison | BPF_K, reg, 0, 0, number);
}

static void conclude(struct program *program, const int32_t answers[VERDICTS])
{
	for (enum verdict verdict = REJECT; verdict < VERDICTS; verdict++) {
		for (uint16_t i = 0; i < program->jump_count; i++) {
			uint16_t at = program->jumps[i].at;

			if (program->jumps[i].to == verdict)
				program->code[at].off = (int16_t)(program->length - at - 1);
		}
		set(program, BPF_REG_0, answers[verdict]);
		emit(program, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	}
}

/*
 * Copy bytes of the packet, counted from its IP header (register 2), to the stack. Register 0: 0, or negative if they
 * aren't there. The first helper doesn't see what lies in the packet's page fragments, as may a long one's headers; the
 * other one does, and counts from the link layer's header: Ethernet's.
 */
static void fetch(struct program *program, int to, int32_t size)
{
	copy(program, BPF_REG_8, BPF_REG_2);
	copy(program, BPF_REG_1, BPF_REG_6);
	point(program, BPF_REG_3, to);
	set(program, BPF_REG_4, size);
	set(program, BPF_REG_5, BPF_HDR_START_NET);
	call(program, BPF_FUNC_skb_load_bytes_relative);
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 7, 0);
	copy(program, BPF_REG_1, BPF_REG_6);
	copy(program, BPF_REG_2, BPF_REG_8);
	emit(program, BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, ETH_HLEN);
	point(program, BPF_REG_3, to);
	set(program, BPF_REG_4, size);
	call(program, BPF_FUNC_skb_load_bytes);
}

/* A tag of VLAN 0 bears but a priority (IEEE 802.1Q, 6.9): IP takes the frame, too. Others are their VLAN's interface's. */
static void reject_vlans(struct program *program)
{
	uint16_t untagged;

	load(program, BPF_W, BPF_REG_0, BPF_REG_6, offsetof(struct __sk_buff, vlan_present));
	untagged = emit_jump(program, BPF_JEQ, BPF_REG_0, 0);
	load(program, BPF_W, BPF_REG_0, BPF_REG_6, offsetof(struct __sk_buff, vlan_tci));
	emit(program, BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_0, 0, 0, VLAN_ID);
	judge(program, BPF_JNE, BPF_REG_0, 0, REJECT);
	land(program, untagged);
}

/* IPv4 UDP of no VLAN that this machine did not send, its header on the stack. */
static void admit_udp(struct program *program)
{
	uint16_t skip;

	copy(program, BPF_REG_6, BPF_REG_1);
	load(program, BPF_W, BPF_REG_0, BPF_REG_6, offsetof(struct __sk_buff, protocol));
	judge(program, BPF_JNE, BPF_REG_0, htons(ETH_P_IP), REJECT);
	reject_vlans(program);
	load(program, BPF_W, BPF_REG_0, BPF_REG_6, offsetof(struct __sk_buff, pkt_type));
	judge(program, BPF_JEQ, BPF_REG_0, PACKET_OUTGOING, REJECT);
	set(program, BPF_REG_2, 0);
	fetch(program, IP_HEADER, sizeof(struct iphdr) + 2 * sizeof(uint16_t));
	skip = emit_jump(program, BPF_JEQ, BPF_REG_0, 0);
	set(program, BPF_REG_2, 0);
	fetch(program, IP_HEADER, sizeof(struct iphdr));
	judge(program, BPF_JNE, BPF_REG_0, 0, REJECT);
	load(program, BPF_B, BPF_REG_0, BPF_REG_10, IP_HEADER + (int)offsetof(struct iphdr, protocol));
	judge(program, BPF_JEQ, BPF_REG_0, IPPROTO_UDP, ACCEPT); /* without ports */
	land(program, skip);
	load(program, BPF_B, BPF_REG_0, BPF_REG_10, IP_HEADER + (int)offsetof(struct iphdr, protocol));
	judge(program, BPF_JNE, BPF_REG_0, IPPROTO_UDP, REJECT);
}

/* The key of the packet on the stack; of what has none the worker says what is wrong with it. */
static void find_key(struct program *program, uint32_t capture)
{
	uint16_t skip;

	load(program, BPF_H, BPF_REG_0, BPF_REG_10, IP_HEADER + (int)offsetof(struct iphdr, frag_off));
	emit(program, BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_0, 0, 0, htons(IP_MF | IP_OFFMASK));
	judge(program, BPF_JNE, BPF_REG_0, 0, ACCEPT);
	load(program, BPF_B, BPF_REG_2, BPF_REG_10, IP_HEADER);
	judge(program, BPF_JLT, BPF_REG_2, 4 << 4 | 5, ACCEPT); /* version and header length */
	judge(program, BPF_JGT, BPF_REG_2, 4 << 4 | 15, ACCEPT);
	emit(program, BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 15);
	emit(program, BPF_ALU64 | BPF_LSH | BPF_K, BPF_REG_2, 0, 0, 2);
	skip = emit_jump(program, BPF_JEQ, BPF_REG_2, sizeof(struct iphdr)); /* no options: they are there */
	fetch(program, PORTS, 2 * sizeof(uint16_t));
	judge(program, BPF_JNE, BPF_REG_0, 0, ACCEPT);
	land(program, skip);
	load(program, BPF_H, BPF_REG_0, BPF_REG_10, PORTS + (int)offsetof(struct udphdr, dest));
	store(program, BPF_H, KEY + (int)offsetof(struct mcr_bpf_key, port), BPF_REG_0);
	load(program, BPF_W, BPF_REG_0, BPF_REG_10, IP_HEADER + (int)offsetof(struct iphdr, daddr));
	store(program, BPF_W, KEY + (int)offsetof(struct mcr_bpf_key, group), BPF_REG_0);
	set(program, BPF_REG_0, (int32_t)capture);
	store(program, BPF_H, KEY + (int)offsetof(struct mcr_bpf_key, capture), BPF_REG_0);
}

static void look_up(struct program *program, int map, int key)
{
	point_to_map(program, BPF_REG_1, map);
	point(program, BPF_REG_2, key);
	call(program, BPF_FUNC_map_lookup_elem);
}

/* An array's value is in register 1, and where it lies in register 0. */
static void load_value(struct program *program, int array, uint32_t index)
{
	set(program, BPF_REG_0, (int32_t)index);
	store(program, BPF_W, INDEX, BPF_REG_0);
	look_up(program, array, INDEX);
	judge(program, BPF_JEQ, BPF_REG_0, 0, REJECT); /* never: for the verifier */
	load(program, BPF_DW, BPF_REG_1, BPF_REG_0, 0);
}

/* A super-frame is as many datagrams as it will be cut into. */
static void count(struct program *program, int rejected, uint32_t capture)
{
	load(program, BPF_W, BPF_REG_7, BPF_REG_6, offsetof(struct __sk_buff, gso_segs));
	emit(program, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_7, 0, 1, 0);
	set(program, BPF_REG_7, 1);
	load_value(program, rejected, capture);
	emit(program, BPF_ALU64 | BPF_ADD | BPF_X, BPF_REG_1, BPF_REG_7, 0, 0);
	emit(program, BPF_STX | BPF_DW | BPF_MEM, BPF_REG_0, BPF_REG_1, 0, 0);
}

/* If it is wanted (register 0) and in a super-frame, end with how much of it to keep; else go on. */
static void clip_super_frame(struct program *program)
{
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 5, 0);
	load(program, BPF_W, BPF_REG_7, BPF_REG_6, offsetof(struct __sk_buff, gso_segs));
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_7, 0, 3, 0);
	copy(program, BPF_REG_0, BPF_REG_7);
	emit(program, BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_0, 0, 0, MCR_BPF_CLIP);
	emit(program, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static int load_program(const struct program *program, uint32_t type)
{
	static const char license[] = "GPL"; /* what the kernel asks for before it lends some helpers */
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = type;
	attr.insns = (uintptr_t)program->code;
	attr.insn_cnt = program->length;
	attr.license = (uintptr_t)license;
	memcpy(attr.prog_name, "mcr", sizeof("mcr"));
	return bpf(BPF_PROG_LOAD, &attr);
}

int mcr_bpf_load_filter(int wanted, int rejected, uint32_t capture, bool clip, bool everything)
{
	static const int32_t answers[VERDICTS] = { [REJECT] = 0, [ACCEPT] = ACCEPT_WHOLE };
	struct program program = { .length = 0 };

	admit_udp(&program);
	find_key(&program, capture);
	if (everything)
		set(&program, BPF_REG_0, 1);
	else
		look_up(&program, wanted, KEY);
	if (clip)
		clip_super_frame(&program);
	judge(&program, BPF_JNE, BPF_REG_0, 0, ACCEPT);
	count(&program, rejected, capture);
	conclude(&program, answers);
	return load_program(&program, BPF_PROG_TYPE_SOCKET_FILTER);
}

/* Register 0: a UDP socket that would take the packet, which has to be released; or 0. */
static void find_socket(struct program *program)
{
	load(program, BPF_W, BPF_REG_0, BPF_REG_10, IP_HEADER + (int)offsetof(struct iphdr, saddr));
	store(program, BPF_W, TUPLE, BPF_REG_0);
	load(program, BPF_W, BPF_REG_0, BPF_REG_10, IP_HEADER + (int)offsetof(struct iphdr, daddr));
	store(program, BPF_W, TUPLE + 4, BPF_REG_0);
	load(program, BPF_W, BPF_REG_0, BPF_REG_10, PORTS);
	store(program, BPF_W, TUPLE + 8, BPF_REG_0);
	copy(program, BPF_REG_1, BPF_REG_6);
	point(program, BPF_REG_2, TUPLE);
	set(program, BPF_REG_3, 12);
	set(program, BPF_REG_4, BPF_F_CURRENT_NETNS);
	set(program, BPF_REG_5, 0);
	call(program, BPF_FUNC_sk_lookup_udp);
}

/*
 * Leave the packet to IP if it is this processor's first of the clock's tick. What IP throws away there is freed after
 * a grace period, and a processor that has something to free keeps its tick. Else an idle one stops it whenever it
 * waits for a packet, and leaving that state costs more than absorbing saves.
 */
static void spare_the_tick(struct program *program, int ticks)
{
	call(program, BPF_FUNC_jiffies64);
	copy(program, BPF_REG_7, BPF_REG_0);
	load_value(program, ticks, 0);
	emit(program, BPF_STX | BPF_DW | BPF_MEM, BPF_REG_0, BPF_REG_7, 0, 0);
	emit(program, BPF_ALU64 | BPF_SUB | BPF_X, BPF_REG_1, BPF_REG_7, 0, 0);
	judge(program, BPF_JNE, BPF_REG_1, 0, ACCEPT);
}

static int load_absorber(int wanted, int ticks, uint32_t capture)
{
	/* Other programs are to have their say, too. */
	static const int32_t answers[VERDICTS] = { [REJECT] = TCX_NEXT, [ACCEPT] = TCX_NEXT };
	struct program program = { .length = 0 };

	admit_udp(&program);
	find_key(&program, capture);
	look_up(&program, wanted, KEY);
	judge(&program, BPF_JEQ, BPF_REG_0, 0, ACCEPT);
	spare_the_tick(&program, ticks);
	find_socket(&program);
	emit(&program, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 4, 0);
	copy(&program, BPF_REG_1, BPF_REG_0);
	call(&program, BPF_FUNC_sk_release);
	set(&program, BPF_REG_0, TCX_NEXT);
	emit(&program, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	copy(&program, BPF_REG_1, BPF_REG_6);
	set(&program, BPF_REG_2, PACKET_OTHERHOST);
	call(&program, BPF_FUNC_skb_change_type);
	conclude(&program, answers);
	return load_program(&program, BPF_PROG_TYPE_SCHED_CLS);
}

int mcr_bpf_load_absorber(int wanted, uint32_t capture)
{
	int ticks = open_map(BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(uint32_t), sizeof(uint64_t), 1, 0);
	int ret;

	if (ticks < 0)
		return ticks;
	ret = load_absorber(wanted, ticks, capture);
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
	return bpf(BPF_LINK_CREATE, &attr);
}

static int count_programs(int group, uint32_t attach_type)
{
	union bpf_attr attr;
	int ret;

	memset(&attr, 0, sizeof(attr));
	attr.query.target_fd = (uint32_t)group;
	attr.query.attach_type = attach_type;
	attr.query.query_flags = BPF_F_QUERY_EFFECTIVE;
	ret = bpf(BPF_PROG_QUERY, &attr);
	return ret ? ret : (int)attr.query.prog_cnt;
}

int mcr_bpf_count_egress(int group)
{
	int frames = count_programs(group, BPF_CGROUP_INET_EGRESS);
	int sends = count_programs(group, BPF_CGROUP_UDP4_SENDMSG);

	return frames < 0 ? frames : sends < 0 ? sends : frames + sends;
}
