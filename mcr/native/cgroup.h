/* SPDX-License-Identifier: MIT */
#ifndef MCR_CGROUP_H
#define MCR_CGROUP_H

/*
 * The root of cgroup2, as this process's cgroup namespace has it, where no mount shows it (`ip netns exec` hides them all).
 * It is mounted nowhere: who closes the descriptor is rid of it. -EPERM without CAP_SYS_ADMIN, -ENOSYS before Linux 5.2.
 */
int mcr_cgroup_open(void);

#endif
