/* SPDX-License-Identifier: MIT */
/* Closing what the kernel takes long to close. */
#ifndef MCR_LATER_H
#define MCR_LATER_H

#include <stdint.h>

/*
 * Close these descriptors, but have the kernel keep what they stand for until this process has ended, and let go of it
 * then in threads of its own: who waits for the process does not wait for that. 0 or -errno: nothing is closed.
 */
int mcr_close_after_exit(const int *fds, uint32_t count);

#endif
