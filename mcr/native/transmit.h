/* SPDX-License-Identifier: MIT */
/*
 * Hands sends to the kernel, where each ends there and then (MSG_DONTWAIT): a full socket is an error that is counted,
 * never a wait and never a reordering.
 *
 * By sendmmsg(2): what leaves together by one socket is one system call. Requests on an io_uring cost more each than that.
 */
#ifndef MCR_TRANSMIT_H
#define MCR_TRANSMIT_H

#include "worker.h"

/* Send these, to each interface in order, and tell what became of each (mcr_forward_sent). */
void mcr_transmit(struct mcr_worker *worker, struct mcr_send *sends, uint32_t count);

#endif
