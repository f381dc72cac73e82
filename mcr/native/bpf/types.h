/* SPDX-License-Identifier: MIT */
/* Finds functions of the kernel by its own description of its types (BTF), where it has one. Programs name them by number. */
#ifndef MCR_BPF_TYPES_H
#define MCR_BPF_TYPES_H

#include <stdint.h>

#define MCR_BPF_KERNEL_TYPES "/sys/kernel/btf/vmlinux"

/* The numbers of functions of these names, in the description that this file is. 0: it is not there. */
void mcr_bpf_types_find(const char *path, const char *const names[], uint32_t numbers[], uint32_t count);

#endif
