/* SPDX-License-Identifier: MIT */
/* Gives up the privileges that a worker does not need. */
#ifndef MCR_PRIVILEGES_H
#define MCR_PRIVILEGES_H

/*
 * Rule out that a program executed later gains capabilities. Needs CAP_SETPCAP; a process without it keeps the bounding
 * set, which has no effect once mcr_drop_capabilities was called.
 */
void mcr_shrink_bounding_set(void);

/* Drop every capability and the way to regain one (capabilities(7), PR_SET_NO_NEW_PRIVS). 0 or -errno. */
int mcr_drop_capabilities(void);

/*
 * From now on this process can read, write, send and wait, and use memory; it can open nothing and become nothing
 * (seccomp(2)). Other system calls fail with EPERM. 0 or -errno.
 */
int mcr_confine(void);

#endif
