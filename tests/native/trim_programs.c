// SPDX-License-Identifier: MIT
/* What is left of eBPF programs when numbers have been filled in: those ways that these leave, and jumps that still meet. */
#include <linux/bpf.h>
#include <pthread.h>

#include "bpf/trim.h"
#include "common.h"

#define LOAD(dst, number)              { BPF_LD | BPF_IMM | BPF_DW, dst, 0, 0, number }, { 0 }
#define HALF(high)                     { .imm = high }
#define LOAD_64(dst, low, high)        { BPF_LD | BPF_IMM | BPF_DW, dst, 0, 0, low }, HALF(high)
#define FUNCTION(dst, distance)        { BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_FUNC, 0, distance }, { 0 }
#define MOVE(dst, number)              { BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, number }
#define CALL                           { BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ktime_get_ns }
#define GOTO(off)                      { BPF_JMP | BPF_JA, 0, 0, off, 0 }
#define IF_EQUAL(dst, number, off)     { BPF_JMP | BPF_JEQ | BPF_K, dst, 0, off, number }
#define UNLESS_EQUAL(dst, number, off) { BPF_JMP | BPF_JNE | BPF_K, dst, 0, off, number }
#define EXIT                           { BPF_JMP | BPF_EXIT, 0, 0, 0, 0 }

#define CHECK_TRIM(code, ...)                                                                         \
	do {                                                                                          \
		const struct bpf_insn left[] = { __VA_ARGS__ };                                       \
		size_t length = (size_t)mcr_bpf_trim(code, sizeof(code) / sizeof(code[0]));           \
		CHECK(length == sizeof(left) / sizeof(left[0]) && !memcmp(code, left, sizeof(left))); \
	} while (0)

/* The number is 0, or is not: either way one branch is left, and the jump around it. */
static void check_branch(void)
{
	struct bpf_insn never[] = { LOAD(2, 0), IF_EQUAL(1, 7, 3), UNLESS_EQUAL(2, 0, 2), MOVE(0, 1), EXIT, MOVE(0, 2),
				    EXIT };
	struct bpf_insn always[] = { LOAD(2, 1), IF_EQUAL(1, 7, 3), UNLESS_EQUAL(2, 0, 2), MOVE(0, 1), EXIT, MOVE(0, 2),
				     EXIT };

	CHECK_TRIM(never, LOAD(2, 0), IF_EQUAL(1, 7, 3), GOTO(0), MOVE(0, 1), EXIT, MOVE(0, 2), EXIT);
	CHECK_TRIM(always, LOAD(2, 1), IF_EQUAL(1, 7, 1), GOTO(0), MOVE(0, 2), EXIT);
}

/* A number has 64 bits; what a jump compares it with is one of 32, with its sign. */
static void check_long_numbers(void)
{
	struct bpf_insn high[] = { LOAD_64(2, 0, 1), IF_EQUAL(2, 0, 1), MOVE(0, 1), EXIT };
	struct bpf_insn minus[] = { LOAD_64(2, -1, -1), IF_EQUAL(2, -1, 1), MOVE(0, 1), EXIT };
	struct bpf_insn plus[] = { LOAD_64(2, -1, 0), IF_EQUAL(2, -1, 1), MOVE(0, 1), EXIT };

	CHECK_TRIM(high, LOAD_64(2, 0, 1), GOTO(0), MOVE(0, 1), EXIT);
	CHECK_TRIM(minus, LOAD_64(2, -1, -1), GOTO(0), EXIT);
	CHECK_TRIM(plus, LOAD_64(2, -1, 0), GOTO(0), MOVE(0, 1), EXIT);
}

/* Two ways to a jump: it is decided if both have the same number. */
static void check_join(void)
{
	struct bpf_insn same[] = { IF_EQUAL(1, 7, 3), LOAD(2, 0), GOTO(2), LOAD(2, 0),
				   IF_EQUAL(2, 0, 1), MOVE(0, 1), EXIT };
	struct bpf_insn other[] = { IF_EQUAL(1, 7, 3), LOAD(2, 0), GOTO(2), LOAD(2, 1),
				    IF_EQUAL(2, 0, 1), MOVE(0, 1), EXIT };

	CHECK_TRIM(same, IF_EQUAL(1, 7, 3), LOAD(2, 0), GOTO(2), LOAD(2, 0), GOTO(0), EXIT);
	CHECK_TRIM(other, IF_EQUAL(1, 7, 3), LOAD(2, 0), GOTO(2), LOAD(2, 1), IF_EQUAL(2, 0, 1), MOVE(0, 1), EXIT);
}

/* A number is known until something else is in its register: also in the second turn of a loop. */
static void check_what_is_forgotten(void)
{
	struct bpf_insn moved[] = { LOAD(2, 0), MOVE(2, 1), IF_EQUAL(2, 0, 1), MOVE(0, 1), EXIT };
	struct bpf_insn called[] = { LOAD(2, 0), CALL, IF_EQUAL(2, 0, 1), MOVE(0, 1), EXIT };
	struct bpf_insn turned[] = { LOAD(2, 0), IF_EQUAL(2, 0, 1), EXIT, MOVE(2, 1), IF_EQUAL(1, 7, -4), EXIT };

	CHECK_TRIM(moved, LOAD(2, 0), MOVE(2, 1), IF_EQUAL(2, 0, 1), MOVE(0, 1), EXIT);
	CHECK_TRIM(called, LOAD(2, 0), CALL, IF_EQUAL(2, 0, 1), MOVE(0, 1), EXIT);
	CHECK_TRIM(turned, LOAD(2, 0), IF_EQUAL(2, 0, 1), EXIT, MOVE(2, 1), IF_EQUAL(1, 7, -4), EXIT);
}

/* A function goes with the last place that names it, and is found where it has moved to. */
static void check_functions(void)
{
	struct bpf_insn used[] = { LOAD(1, 0), IF_EQUAL(1, 0, 2), MOVE(0, 1), EXIT, FUNCTION(2, 3), CALL,
				   EXIT,       MOVE(0, 0),        EXIT };
	struct bpf_insn unused[] = { LOAD(1, 1), IF_EQUAL(1, 0, 2), MOVE(0, 1), EXIT, FUNCTION(2, 3), CALL,
				     EXIT,       MOVE(0, 0),        EXIT };

	CHECK_TRIM(used, LOAD(1, 0), GOTO(0), FUNCTION(2, 3), CALL, EXIT, MOVE(0, 0), EXIT);
	CHECK_TRIM(unused, LOAD(1, 1), GOTO(0), MOVE(0, 1), EXIT);
}

static void *check_all(void *unused)
{
	check_branch();
	check_long_numbers();
	check_join();
	check_what_is_forgotten();
	check_functions();
	return unused;
}

/* With a stack of musl's size. */
int main(void)
{
	pthread_attr_t attr;
	pthread_t thread;

	CHECK(!pthread_attr_init(&attr));
	CHECK(!pthread_attr_setstacksize(&attr, 128 << 10));
	CHECK(!pthread_create(&thread, &attr, check_all, NULL));
	CHECK(!pthread_join(thread, NULL));
	CHECK(!pthread_attr_destroy(&attr));
	return 0;
}
