/* SPDX-License-Identifier: MIT */
/* Giving up what a worker does not need. */
#ifndef MCR_PRIVILEGES_H
#define MCR_PRIVILEGES_H

/* Drop every capability and the way to regain one (capabilities(7), PR_SET_NO_NEW_PRIVS). 0 or -errno. */
int mcr_drop_capabilities(void);

#endif
