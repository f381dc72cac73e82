/* SPDX-License-Identifier: MIT */
/*
 * Hands the planned sends of a batch to the kernel, where each ends there and then (MSG_DONTWAIT): a full socket is an
 * error that is counted, never a wait and never a reordering.
 *
 * By sendmmsg(2): what leaves together by one socket is one system call. Requests on an io_uring cost more each than that.
 * What is refused, but could leave in another way (a train, a raw frame), does so at once, before anything later of its
 * output.
 */
#ifndef MCR_SEND_H
#define MCR_SEND_H

#include "worker.h"

/* Send what is planned, to each output in order, and note in the batch what became of each datagram. */
void mcr_send_all(struct mcr_worker *worker);

#endif
