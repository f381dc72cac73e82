// SPDX-License-Identifier: MIT
#include "bpf/functions.h"

#include <errno.h>
#include <linux/btf.h>
#include <string.h>
#include <unistd.h>

#include "bpf/load.h"

#define PROTOTYPE 1 /* numbers of types */
#define FUNCTION  2

/* All that the kernel wants to know is where functions begin, and that they are static: they bear one name. */
static const struct {
	struct btf_header header;
	struct btf_type prototype;
	struct btf_type function;
	char strings[sizeof("\0mcr")];
} types = {
	.header = { .magic = BTF_MAGIC,
		    .version = BTF_VERSION,
		    .hdr_len = sizeof(struct btf_header),
		    .type_len = 2 * sizeof(struct btf_type),
		    .str_off = 2 * sizeof(struct btf_type),
		    .str_len = sizeof("\0mcr") },
	.prototype = { .info = (uint32_t)BTF_KIND_FUNC_PROTO << 24 },
	.function = { .name_off = 1, .info = (uint32_t)BTF_KIND_FUNC << 24, .type = PROTOTYPE },
	.strings = "\0mcr",
};

/* Keep a function by where it begins, in that order. */
static int add(struct bpf_func_info *infos, uint32_t *count, uint32_t begin)
{
	uint32_t at = *count;

	for (uint32_t i = 0; i < *count; i++)
		if (infos[i].insn_off == begin)
			return 0;
	if (*count == MCR_BPF_MAX_FUNCTIONS)
		return -E2BIG;
	for (; at && infos[at - 1].insn_off > begin; at--)
		infos[at] = infos[at - 1];
	infos[at] = (struct bpf_func_info){ begin, FUNCTION };
	++*count;
	return 0;
}

static int load_types(void)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.btf = (uintptr_t)&types;
	attr.btf_size = offsetof(__typeof__(types), strings) + sizeof(types.strings);
	return mcr_bpf(BPF_BTF_LOAD, &attr);
}

int mcr_bpf_functions_open(struct mcr_bpf_functions *functions, union bpf_attr *attr, const struct bpf_insn *code)
{
	uint32_t count = 0;
	int ret = add(functions->infos, &count, 0);

	functions->types = -1;
	for (uint32_t i = 0; i < attr->insn_cnt && !ret; i++)
		if (code[i].code == (BPF_LD | BPF_IMM | BPF_DW) && code[i].src_reg == BPF_PSEUDO_FUNC)
			ret = add(functions->infos, &count, i + 1 + (uint32_t)code[i].imm);
	if (ret || count == 1)
		return ret;
	functions->types = load_types();
	if (functions->types < 0)
		return functions->types;
	attr->prog_btf_fd = (uint32_t)functions->types;
	attr->func_info_rec_size = sizeof(functions->infos[0]);
	attr->func_info = (uintptr_t)functions->infos;
	attr->func_info_cnt = count;
	return 0;
}

void mcr_bpf_functions_close(const struct mcr_bpf_functions *functions)
{
	if (functions->types >= 0)
		close(functions->types);
}
