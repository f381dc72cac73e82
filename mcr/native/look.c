// SPDX-License-Identifier: MIT
#include "look.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "clock.h"
#include "offload.h"
#include "oversize.h"
#include "own.h"
#include "packet.h"

/*
 * Between two turns. 8 MiB that the kernel doubles hold 5,000 frames of 1,316 bytes: at 450,000 per second those of 11 ms.
 */
#define PAUSE_NS (MCR_SECOND_NS / 250)

#define VLAN_ID 0x0fff /* in a tag's control information */

union control {
	char bytes[CMSG_SPACE(sizeof(uint32_t)) + CMSG_SPACE(sizeof(struct tpacket_auxdata))];
	struct cmsghdr aligned;
};

struct mcr_look_buffers {
	struct mmsghdr messages[MCR_LOOK_FRAMES];
	struct iovec parts[MCR_LOOK_FRAMES];
	union control control[MCR_LOOK_FRAMES];
	uint8_t frames[MCR_LOOK_FRAMES][MCR_OVERSIZE_BYTES];
};

struct whole {
	struct mcr_look look;
	struct mcr_look_buffers buffers;
};

struct mcr_look *mcr_look_open(const struct mcr_look_spec *spec)
{
	/* Pages that nobody writes cost nothing, as they would where malloc clears what it has had before. */
	struct whole *whole = mmap(NULL, sizeof(*whole), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (whole == MAP_FAILED)
		return NULL;
	whole->look.spec = *spec;
	whole->look.buffers = &whole->buffers;
	return &whole->look;
}

void mcr_look_close(struct mcr_look *look)
{
	munmap(look, sizeof(struct whole));
}

static uint64_t rotate(uint64_t word, uint32_t by)
{
	return word << by | word >> (64 - by);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] = rotate(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] = rotate(v[2], 32);
}

static void sip_take(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
}

/*
 * SipHash with one round and three (Aumasson, Bernstein: "SipHash: a fast short-input PRF"): who does not know the secret
 * finds no two payloads that have the same. `first`: one more word of the input; then comes its size.
 */
static uint64_t hash(const struct mcr_look *look, uint64_t first, const void *data, uint32_t size)
{
	const uint64_t *secret = look->spec.secret;
	uint64_t v[4] = { secret[0] ^ UINT64_C(0x736f6d6570736575), secret[1] ^ UINT64_C(0x646f72616e646f6d),
			  secret[0] ^ UINT64_C(0x6c7967656e657261), secret[1] ^ UINT64_C(0x7465646279746573) };
	const uint8_t *at = data;
	uint64_t word;

	sip_take(v, first);
	sip_take(v, size);
	for (; size >= sizeof(word); at += sizeof(word), size -= (uint32_t)sizeof(word)) {
		memcpy(&word, at, sizeof(word));
		sip_take(v, word);
	}
	word = 0;
	memcpy(&word, at, size);
	sip_take(v, word);
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static struct mcr_way way_of(const struct mcr_look *look, const struct mcr_frame *frame,
			     const struct mcr_packet *packet)
{
	struct mcr_way way = { .family = packet->family, .port = packet->port };
	size_t bytes = packet->family == MCR_FLOW_IPV6 ? sizeof(packet->source6) : sizeof(packet->source);

	memcpy(way.source, packet->source6, bytes);
	memcpy(way.group, packet->group6, bytes);
	if (look->spec.link >= ETH_HLEN && frame->network >= ETH_HLEN)
		memcpy(way.mac, frame->data + ETH_ALEN, ETH_ALEN);
	return way;
}

/* The number of a way, which may be new; MCR_LOOK_MOST: there is no room. */
static uint32_t number_of(struct mcr_look *look, const struct mcr_way *way)
{
	uint64_t at = hash(look, 0, way, sizeof(*way));
	uint32_t *bucket;

	for (;; at++) {
		bucket = &look->buckets[at % (2 * MCR_LOOK_MOST)];
		if (!*bucket)
			break;
		if (!memcmp(&look->ways[*bucket - 1], way, sizeof(*way)))
			return *bucket - 1;
	}
	if (look->way_count == MCR_LOOK_MOST)
		return MCR_LOOK_MOST;
	look->ways[look->way_count] = *way;
	look->flows[look->way_count] = hash(look, 0, way->group,
					    sizeof(*way) - (uint32_t)offsetof(struct mcr_way, group));
	*bucket = ++look->way_count;
	return *bucket - 1;
}

/* Each datagram of a frame: one, or a super-frame's. */
static void hear(struct mcr_look *look, uint32_t way, const struct mcr_frame *frame, const struct mcr_packet *packet)
{
	uint32_t segment = frame->segment ? frame->segment : packet->payload_size, done = 0;

	do { /* an empty datagram is one, too */
		uint32_t left = packet->payload_size - done, size = left < segment ? left : segment;
		const uint8_t *payload = frame->data + packet->payload + done;

		look->heard[look->count++] = (struct mcr_heard){ .payload = hash(look, look->flows[way], payload, size),
								 .way = way };
		done += size;
	} while (done < packet->payload_size);
}

/* Whether the relay takes so many datagrams in one frame. */
static bool is_sound(const struct mcr_frame *frame, const struct mcr_packet *packet)
{
	return !frame->segment || packet->payload_size <= frame->segment * MCR_FRAME_PAYLOADS;
}

void mcr_look_take(struct mcr_look *look, const struct mcr_frame *frame)
{
	struct mcr_packet packet;
	struct mcr_way way;
	uint32_t number;

	if (frame->tagged_again || frame->vlan != look->spec.vlan || look->count > MCR_LOOK_ROOM - MCR_FRAME_PAYLOADS)
		return;
	if (mcr_packet_parse(frame->data, frame->size, frame->network, &packet) || !is_sound(frame, &packet))
		return;
	way = way_of(look, frame, &packet);
	number = number_of(look, &way);
	if (number == MCR_LOOK_MOST)
		look->lost = true;
	else
		hear(look, number, frame, &packet);
}

/* The kernel has taken the outermost tag out (packet(7)). One of VLAN 0 bears but a priority. */
static void read_tag(const struct tpacket_auxdata *known, struct mcr_frame *frame)
{
	bool service = known->tp_status & TP_STATUS_VLAN_TPID_VALID && known->tp_vlan_tpid != ETH_P_8021Q;

	frame->vlan = known->tp_status & TP_STATUS_VLAN_VALID ? known->tp_vlan_tci & VLAN_ID : 0;
	frame->tagged_again = frame->vlan && service;
}

/*
 * Whether frames have found no room before this one (SO_RXQ_OVFL): those that were in the socket then are before it, and
 * whole. The kernel says nothing as long as there were none.
 */
static bool is_after_loss(const struct mmsghdr *message)
{
	const struct cmsghdr *control = CMSG_FIRSTHDR(&message->msg_hdr);

	return control && control->cmsg_level == SOL_SOCKET && control->cmsg_type == SO_RXQ_OVFL;
}

/* What a message has of a frame. What the kernel says of offloads stands before it (PACKET_VNET_HDR). */
static bool read_message(struct mcr_look_buffers *buffers, uint32_t number, struct mcr_frame *frame)
{
	const struct mmsghdr *message = &buffers->messages[number];
	const struct cmsghdr *control = CMSG_FIRSTHDR(&message->msg_hdr);
	struct virtio_net_hdr offload;
	struct tpacket_auxdata known;

	if (message->msg_len < sizeof(offload) || !control || control->cmsg_type != PACKET_AUXDATA)
		return false;
	memcpy(&known, CMSG_DATA(control), sizeof(known));
	memcpy(&offload, buffers->frames[number], sizeof(offload));
	*frame = (struct mcr_frame){
		.data = buffers->frames[number] + sizeof(offload),
		.size = message->msg_len - (uint32_t)sizeof(offload),
		.network = known.tp_net,
		.segment = offload.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? offload.gso_size : 0,
	};
	read_tag(&known, frame);
	return true;
}

/* Frames that have come, at most a turn's; 0: none has, or -errno. */
static int receive(struct mcr_look *look)
{
	struct mcr_look_buffers *buffers = look->buffers;
	int count;

	for (uint32_t i = 0; i < MCR_LOOK_FRAMES; i++) {
		buffers->parts[i] = (struct iovec){ buffers->frames[i], sizeof(buffers->frames[i]) };
		buffers->messages[i].msg_hdr = (struct msghdr){ .msg_iov = &buffers->parts[i],
								.msg_iovlen = 1,
								.msg_control = &buffers->control[i],
								.msg_controllen = sizeof(buffers->control[i]) };
	}
	count = recvmmsg(look->spec.fd, buffers->messages, MCR_LOOK_FRAMES, MSG_DONTWAIT, NULL);
	if (count >= 0)
		return count;
	if (errno == EINVAL) { /* a super-frame of datagrams, before Linux 6.2: the kernel can't say so, and drops it */
		look->lost = true;
		return 0;
	}
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

/* Take what has come, at most a turn's frames. As receive(). */
static int turn(struct mcr_look *look)
{
	struct mcr_frame frame;
	int count = receive(look);

	if (count <= 0)
		return count;
	look->frames += (uint32_t)count;
	for (int i = 0; i < count && !look->lost; i++)
		if (is_after_loss(&look->buffers->messages[i]))
			look->lost = true;
		else if (read_message(look->buffers, (uint32_t)i, &frame))
			mcr_look_take(look, &frame);
	return count;
}

static void pause_until(uint64_t end, uint64_t now)
{
	uint64_t left = end - now < PAUSE_NS ? end - now : PAUSE_NS;
	struct timespec pause = { .tv_nsec = (long)left };

	nanosleep(&pause, NULL);
}

int mcr_look_read(struct mcr_look *look, uint64_t ns)
{
	uint64_t end = mcr_clock_ns(CLOCK_MONOTONIC) + ns, now;
	uint32_t begun = look->frames;
	int count;

	look->count = 0;
	look->behind = true;
	for (;;) {
		count = turn(look);
		if (count < 0)
			return count;
		if (count < MCR_LOOK_FRAMES)
			look->behind = false;
		if (look->lost || look->count >= MCR_LOOK_ENOUGH || look->frames - begun >= MCR_LOOK_ENOUGH)
			return 0;
		now = mcr_clock_ns(CLOCK_MONOTONIC);
		if (now >= end)
			return 0;
		if (count < MCR_LOOK_FRAMES)
			pause_until(end, now);
	}
}
