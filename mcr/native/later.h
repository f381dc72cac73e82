/* SPDX-License-Identifier: MIT */
/* Closes descriptors that take the kernel long to close. */
#ifndef MCR_LATER_H
#define MCR_LATER_H

#include <stdint.h>

/*
 * Close these descriptors, but let the kernel keep their files until this process has ended. Its own threads close them
 * then, so a parent that waits for the process does not wait for that. 0, or -errno: nothing is closed.
 */
int mcr_close_after_exit(const int *fds, uint32_t count);

#endif
