/* SPDX-License-Identifier: MIT */
/*
 * Hands the planned sends of a batch to the kernel. None of them waits (MSG_DONTWAIT): a full socket is an error that is
 * counted, never a wait and never a reordering.
 *
 * Sends by one socket go in one system call, sendmmsg(2). A request on an io_uring costs more than a message there. A send
 * that is refused but could leave in another way (a train, a raw frame) does so at once, before anything later for its
 * output.
 */
#ifndef MCR_SEND_H
#define MCR_SEND_H

#include "worker.h"

/* Send what is planned, to each output in order, and note in the batch what became of each datagram. */
void mcr_send_all(struct mcr_worker *worker);

#endif
