/* SPDX-License-Identifier: MIT */
/* What the supervisor tells a worker: commands on the rule ring, descriptors on the channel. */
#ifndef MCR_CONTROL_H
#define MCR_CONTROL_H

#include "worker.h"

/* Carry out every command that waits, between two batches. 0, or -EPROTO, -EBADMSG, or a failed step's -errno. */
int mcr_control_apply(struct mcr_worker *worker);

/* Let go of a capture that has nothing left to read. */
void mcr_control_detach(struct mcr_worker *worker, uint32_t capture);

/* Write the acknowledgement that is due, and wake the supervisor if the event ring has something for it. */
void mcr_control_report(struct mcr_worker *worker);

#endif
