/* SPDX-License-Identifier: MIT */
/* A send by a system call of its own. */
#ifndef MCR_DIRECT_H
#define MCR_DIRECT_H

#include "worker.h"

/* The socket that a send leaves by. */
int mcr_direct_socket(const struct mcr_worker *worker, const struct mcr_send *send);

/* Send it, and tell what became of it (mcr_forward_sent). */
void mcr_direct_send(struct mcr_worker *worker, struct mcr_send *send);

#endif
