/* SPDX-License-Identifier: MIT */
/*
 * Puts fragments of IPv4 and IPv6 datagrams together (RFC 791, 3.2; RFC 8200, 4.5), in a table of fixed size. Pure.
 *
 * A datagram that lacks fragments has a place for a second at most: identifications come again soon at high rates
 * (RFC 4963). Where all places are taken a new datagram gets the oldest one of the source that has most. So whoever sends
 * beginnings without ends pushes out his own.
 *
 * A fragment that overlaps others spoils its datagram, with all that is still to come of it (RFC 5722 says why). One that says again what has been said does no harm, nor does a copy of the one that made its datagram whole.
 */
#ifndef MCR_REASSEMBLY_H
#define MCR_REASSEMBLY_H

#include "capture.h"
#include "flow.h"
#include "packet.h"
#include "parse.h"

#define MCR_REASSEMBLIES    64
#define MCR_DATAGRAM_BYTES  65535u /* at most: of IPv4 with its header, of IPv6 without */
#define MCR_FRAGMENT_UNIT   8u     /* bytes that offsets of fragments are counted in */
#define MCR_REASSEMBLY_NS   UINT64_C(1000000000)
#define MCR_REASSEMBLY_MAPS ((MCR_DATAGRAM_BYTES / MCR_FRAGMENT_UNIT + 64) / 64)

enum mcr_partial_state {
	MCR_PARTIAL_FREE,
	MCR_PARTIAL_WAITS,  /* for more fragments */
	MCR_PARTIAL_SPOILT, /* fragments overlapped: the others are dropped when they come */
	MCR_PARTIAL_WHOLE,  /* in the batch, until that ends */
	MCR_PARTIAL_DONE, /* was in a batch: kept to know a copy of its last fragment, until another needs the place */
};

/* A datagram of which fragments have come. */
struct mcr_partial {
	enum mcr_partial_state state;
	uint32_t id; /* IP's identification */
	struct mcr_flow flow;
	uint64_t since_ns;  /* it waits, or is whole */
	uint32_t before;    /* bytes of headers that count as the datagram's, and are in front of these; by the first */
	uint32_t end;       /* bytes behind the IP header; 0: the last fragment has not come */
	uint32_t reach;     /* the last of these that is there, and one */
	uint32_t bytes;     /* of these, that are there */
	uint32_t fragments; /* that are there; nobody has counted them yet */
	uint32_t whole_by;  /* where the fragment begins that came last */
	uint8_t next;       /* of IPv6: the protocol of these bytes, by the first */
	bool congested;     /* one of them bears the mark (RFC 3168, 5.3) */
};

struct mcr_reassembly {
	uint32_t waiting;                              /* datagrams that wait, or are spoilt */
	uint32_t whole;                                /* in the batch */
	uint64_t oldest_ns;                            /* none that waits is older */
	uint32_t losses;                               /* in `lost` */
	uint32_t lost[MCR_MAX_INTERFACES][MCR_CAUSES]; /* fragments to be counted, by capture and cause */
	uint32_t fragments[MCR_MAX_INTERFACES];        /* that are held, by capture */
	uint8_t sent_by[MCR_REASSEMBLIES];             /* datagrams that wait, by the hash of their source */
	struct mcr_partial partials[MCR_REASSEMBLIES];
	uint64_t maps[MCR_REASSEMBLIES][MCR_REASSEMBLY_MAPS]; /* units that are there, a bit each */
	uint8_t datagrams[MCR_REASSEMBLIES][sizeof(struct mcr_ipv6) + MCR_DATAGRAM_BYTES + 1]; /* behind an IP header */
};

/*
 * Add a fragment of a capture, which the parser has found to be one, with this packet's family and addresses. 1: its datagram is whole, and `frame` becomes it;
 * the bytes stay until the next mcr_reassembly_release(). 0: more have to come. Or
 *   -EBADMSG  its lengths contradict each other
 *   -EEXIST   it overlaps others, or is there already
 * What other fragments are lost by it, mcr_reassembly_collect() says.
 */
int mcr_reassembly_add(struct mcr_reassembly *reassembly, uint32_t capture, const struct mcr_packet *packet,
		       uint64_t now_ns, struct mcr_frame *frame);

/* Whether the next fragment has a place, whatever it is. */
bool mcr_reassembly_has_room(const struct mcr_reassembly *reassembly);

/* The batch has ended: let go of the datagrams in it. */
void mcr_reassembly_release(struct mcr_reassembly *reassembly);

/* Give up those that have waited too long; or all of a capture. */
void mcr_reassembly_expire(struct mcr_reassembly *reassembly, uint64_t now_ns);
void mcr_reassembly_give_up(struct mcr_reassembly *reassembly, uint32_t capture);

/* Have a capture's lost fragments counted. */
void mcr_reassembly_collect(struct mcr_reassembly *reassembly, uint32_t capture, struct mcr_totals *add);

#endif
