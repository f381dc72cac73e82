// SPDX-License-Identifier: MIT
/*
 * Feeds the frame parser mutated and truncated frames in exactly sized buffers, so that a sanitizer sees every byte
 * read too far, and checks what it accepts against the contract in packet.h.
 *
 *	packet_fuzz ROUNDS SEED
 */
#include "common.h"
#include "packet.h"

/* A sound frame: Ethernet, IPv4 with `options` words of options, UDP, payload, padding. */
static uint32_t build(uint8_t *frame, uint32_t options, uint32_t payload, uint32_t padding)
{
	uint32_t size = put_headers(frame, 20 + 4 * options, payload, 1, 5000);

	memset(frame + size - payload, 0, payload + padding);
	return size + padding;
}

static void check_accepted(const struct mcr_packet *packet, uint32_t size)
{
	if (packet->payload < ETHERNET + 28 || packet->payload > size ||
	    packet->payload_size > size - packet->payload) {
		fprintf(stderr, "payload outside the frame\n");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	uint64_t accepted = 0, refused = 0;

	if (argc != 3)
		return 2;
	seed(strtoull(argv[2], NULL, 10));
	for (uint64_t round = strtoull(argv[1], NULL, 10); round; round--) {
		uint32_t payload = rnd(64);
		uint8_t sound[256], *frame;
		uint32_t size = build(sound, rnd(11), payload, rnd(20));
		uint32_t mutations = rnd(4), network = ETHERNET;
		struct mcr_packet packet;
		int ret;

		for (uint32_t i = 0; i < mutations; i++)
			sound[rnd(size)] = (uint8_t)rnd(256);
		if (mutations && !rnd(4))
			size = rnd(size + 1);
		if (mutations && !rnd(16))
			network = rnd(80);
		frame = malloc(size ? size : 1);
		memcpy(frame, sound, size);
		ret = mcr_packet_parse(frame, size, network, &packet);
		if (ret == 0) {
			accepted++;
			if (network == ETHERNET)
				check_accepted(&packet, size);
		} else if (ret == -EBADMSG || ret == -EMSGSIZE || ret == -EOPNOTSUPP || ret == -EPROTONOSUPPORT) {
			refused++;
		} else {
			fprintf(stderr, "undocumented result %d\n", ret);
			return 1;
		}
		if (!mutations && (ret || packet.payload_size != payload)) {
			fprintf(stderr, "a sound frame was refused or its payload cut: %d\n", ret);
			return 1;
		}
		free(frame);
	}
	printf("%llu accepted, %llu refused\n", (unsigned long long)accepted, (unsigned long long)refused);
	return !(accepted && refused);
}
