// SPDX-License-Identifier: MIT
#include "bpf/trim.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define REGISTERS 11

/* What an instruction finds, whichever way it is reached. */
struct found {
	bool reached;
	uint16_t known; /* registers with a number, by bit */
	int64_t values[REGISTERS];
};

/* On the heap: a thread's stack may be shorter. */
struct walk {
	const struct bpf_insn *code;
	uint16_t places[MCR_BPF_MAX_PROGRAM]; /* of instructions that are left */
	uint16_t pending[MCR_BPF_MAX_PROGRAM];
	bool is_pending[MCR_BPF_MAX_PROGRAM];
	uint32_t count;
	struct found found[MCR_BPF_MAX_PROGRAM];
};

static bool is_load_64(const struct bpf_insn *insn) /* it takes the place of two */
{
	return insn->code == (BPF_LD | BPF_IMM | BPF_DW);
}

static bool is_function(const struct bpf_insn *insn)
{
	return is_load_64(insn) && insn->src_reg == BPF_PSEUDO_FUNC;
}

static bool is_jump(const struct bpf_insn *insn)
{
	return BPF_CLASS(insn->code) == BPF_JMP && BPF_OP(insn->code) != BPF_CALL && BPF_OP(insn->code) != BPF_EXIT;
}

static bool is_always(const struct bpf_insn *insn)
{
	return insn->code == (BPF_JMP | BPF_JA);
}

/* Where it jumps, or the function that it names begins. */
static uint32_t target_of(const struct bpf_insn *code, uint32_t at)
{
	return at + 1 + (uint32_t)(is_function(&code[at]) ? code[at].imm : code[at].off);
}

/* Whether a known number decides about a jump, and whether it is `taken` then. */
static bool is_decided(const struct bpf_insn *insn, const struct found *found, bool *taken)
{
	bool is_equal = insn->code == (BPF_JMP | BPF_JEQ | BPF_K);

	if (!is_equal && insn->code != (BPF_JMP | BPF_JNE | BPF_K))
		return false;
	*taken = (found->values[insn->dst_reg] == insn->imm) == is_equal;
	return found->known >> insn->dst_reg & 1;
}

/* An instruction is reached with this. What another way to it knows otherwise is not known. */
static void reach(struct walk *walk, uint32_t at, const struct found *with)
{
	struct found *found = &walk->found[at];
	uint16_t known = with->known;

	for (uint32_t i = 0; i < REGISTERS && found->reached; i++)
		if (!(found->known >> i & 1) || found->values[i] != with->values[i])
			known &= (uint16_t)~(1u << i);
	if (found->reached && known == found->known)
		return;
	*found = *with;
	found->reached = true;
	found->known = known;
	if (!walk->is_pending[at])
		walk->pending[walk->count++] = (uint16_t)at;
	walk->is_pending[at] = true;
}

/* The number that a long instruction loads: its halves stand in both of its places. */
static int64_t number_of(const struct bpf_insn *insn)
{
	return (int64_t)((uint64_t)(uint32_t)insn[1].imm << 32 | (uint32_t)insn->imm);
}

/* What is known when an instruction that is no jump has run. */
static void run(const struct bpf_insn *insn, struct found *found)
{
	if (BPF_CLASS(insn->code) == BPF_JMP)
		found->known = 0; /* a call */
	else if (BPF_CLASS(insn->code) != BPF_ST && BPF_CLASS(insn->code) != BPF_STX)
		found->known &= (uint16_t)~(1u << insn->dst_reg);
	if (!is_load_64(insn) || insn->src_reg)
		return;
	found->known |= (uint16_t)(1u << insn->dst_reg);
	found->values[insn->dst_reg] = number_of(insn);
}

static void step(struct walk *walk, uint32_t at)
{
	const struct bpf_insn *insn = &walk->code[at];
	struct found found = walk->found[at];
	bool taken = false, decided = is_decided(insn, &found, &taken);

	if (insn->code == (BPF_JMP | BPF_EXIT))
		return;
	if (is_jump(insn)) {
		if (is_always(insn) || !decided || taken)
			reach(walk, target_of(walk->code, at), &found);
		if (!is_always(insn) && !(decided && taken))
			reach(walk, at + 1, &found);
		return;
	}
	if (is_function(insn))
		reach(walk, target_of(walk->code, at), &(struct found){ 0 });
	run(insn, &found);
	reach(walk, at + 1 + is_load_64(insn), &found);
}

/*
 * Find what can be reached, and decide what jumps can be decided. One that is never taken becomes one to what is next: there
 * a loop may end, which older kernels allow to jumps only. The kernel leaves it out.
 */
static void walk_through(struct walk *walk, struct bpf_insn *code, uint32_t length)
{
	bool taken = false;

	walk->code = code;
	reach(walk, 0, &(struct found){ 0 });
	while (walk->count) {
		uint32_t at = walk->pending[--walk->count];

		walk->is_pending[at] = false;
		step(walk, at);
	}
	for (uint32_t i = 0; i < length; i++)
		if (walk->found[i].reached && is_load_64(&code[i]))
			walk->found[i + 1].reached = true;
		else if (walk->found[i].reached && is_decided(&code[i], &walk->found[i], &taken))
			code[i] = (struct bpf_insn){ .code = BPF_JMP | BPF_JA, .off = taken ? code[i].off : 0 };
}

/* Leave out what was not reached. Gives the new length. */
static uint32_t close_gaps(struct walk *walk, struct bpf_insn *code, uint32_t length)
{
	uint16_t *places = walk->places;
	uint32_t count = 0;

	for (uint32_t i = 0; i < length; i++) {
		places[i] = (uint16_t)count;
		count += walk->found[i].reached;
	}
	for (uint32_t i = 0; i < length; i++) {
		struct bpf_insn insn = code[i];

		if (!walk->found[i].reached)
			continue;
		if (is_jump(&insn))
			insn.off = (int16_t)(places[target_of(code, i)] - places[i] - 1);
		else if (is_function(&insn))
			insn.imm = places[target_of(code, i)] - places[i] - 1;
		code[places[i]] = insn;
	}
	return count;
}

int mcr_bpf_trim(struct bpf_insn *code, uint32_t length)
{
	struct walk *walk = calloc(1, sizeof(*walk));
	int count;

	if (!walk)
		return -ENOMEM;
	walk_through(walk, code, length);
	count = (int)close_gaps(walk, code, length);
	free(walk);
	return count;
}
