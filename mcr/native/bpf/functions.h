/* SPDX-License-Identifier: MIT */
/* Tells the kernel of a program's functions: it calls none that it has no types of. */
#ifndef MCR_BPF_FUNCTIONS_H
#define MCR_BPF_FUNCTIONS_H

#include <linux/bpf.h>
#include <stdint.h>

#define MCR_BPF_MAX_FUNCTIONS 8

struct mcr_bpf_functions {
	struct bpf_func_info infos[MCR_BPF_MAX_FUNCTIONS];
	int types; /* a descriptor; -1: the program has no function but itself */
};

/* Have the program loaded with the types of its functions. 0 or -errno. Close it when the program is loaded. */
int mcr_bpf_functions_open(struct mcr_bpf_functions *functions, union bpf_attr *attr, const struct bpf_insn *code);
void mcr_bpf_functions_close(const struct mcr_bpf_functions *functions);

#endif
