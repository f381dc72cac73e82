/* SPDX-License-Identifier: MIT */
/* Leaves out of a program what its numbers, once filled in, make unreachable. */
#ifndef MCR_BPF_TRIM_H
#define MCR_BPF_TRIM_H

#include <linux/bpf.h>
#include <stdint.h>

#define MCR_BPF_MAX_PROGRAM 8192 /* instructions, before it is trimmed */

/*
 * Without CAP_PERFMON the verifier follows also the way that a number excludes, as a processor may guess it. Linux 6.12 takes
 * an error there for one of the program: maps that only the other way uses are not what they should be, and pointers are
 * numbers. So these branches are decided here. Gives the new length, or -ENOMEM.
 */
int mcr_bpf_trim(struct bpf_insn *code, uint32_t length);

#endif
