// SPDX-License-Identifier: MIT
/*
 * The relay as a whole but for the kernel: hostile frames, statuses and offload headers, in capture rings in plain
 * memory, go through a worker's batches, and calls that send end here, one way or another. After every batch each counter
 * identity holds, what was counted as sent is what was handed over, nothing marked as unsound was, and what left by an
 * output left once and in order, whichever of its sockets took it.
 *
 *	batch_fuzz BATCHES SEED
 */
#include "batch_rings.h"
#include "loop.h"

#define COMMON OUTPUTS /* the egress in whose place those of the last two outputs of a rule stand */
#define UDP_FD 1000    /* and the number of an egress */
#define RAW_FD 1100

static struct world *world;
static struct mcr_bpf_drain drains[CAPTURES]; /* of the only worker */

/* The first one has a UDP socket alone, two have raw frames, and two are neighbours that share a common one. */
static void open_egress(struct mcr_worker *worker)
{
	for (uint32_t i = 0; i <= COMMON; i++)
		worker->egress[i] = (struct mcr_egress){
			.held = true,
			.raw = may_be_raw(i),
			.fd = UDP_FD + (int)i,
			.raw_fd = RAW_FD + (int)i,
			.max_segment = i == 2 ? 272 : 1472,
			.common = i == 3 || i == 4 ? COMMON : i,
		};
}

/* The calls that send, in the place of the C library's. */

static uint32_t segment_of(const struct msghdr *message)
{
	const struct cmsghdr *option = CMSG_FIRSTHDR(message);
	uint16_t segment;

	if (!option)
		return 0;
	if (option->cmsg_level != SOL_UDP) /* of the output's choices, which stand behind it */
		return 0;
	CHECK(option->cmsg_type == UDP_SEGMENT);
	memcpy(&segment, CMSG_DATA(option), sizeof(segment));
	return segment;
}

static void check_payload(const struct iovec *payload)
{
	CHECK(!payload->iov_len || IS_READABLE(payload->iov_base, payload->iov_len));
	CHECK(payload->iov_len < sizeof(*marks) || memcmp(payload->iov_base, marks[UNSOUND], sizeof(*marks)));
}

/* Datagrams that are to leave together. */
struct sending {
	bool raw;
	uint32_t output, count;
	const struct iovec *payloads;
	size_t bytes, headers;
};

static void check_socket(int fd, const struct sending *sending)
{
	const struct mcr_egress *own = &world->worker->egress[world->worker->rules.outputs[sending->output].egress];

	CHECK(sending->output < RULES * OUTPUTS);
	if (sending->raw)
		CHECK(own->raw && fd == own->raw_fd);
	else
		CHECK(fd == own->fd || (fd == UDP_FD + COMMON && own->common == COMMON));
}

static void check_payloads(struct sending *sending, uint32_t segment)
{
	uint32_t last = sending->count - 1;

	for (uint32_t i = 0; i <= last; i++) {
		check_payload(&sending->payloads[i]);
		sending->bytes += sending->payloads[i].iov_len;
	}
	CHECK(sending->bytes <= 65507 && last < MCR_TRAIN_MAX && (!last || segment));
	for (uint32_t i = 0; last && i <= last; i++) /* what a kernel would cut: equal ones, the last may be shorter */
		CHECK(sending->payloads[i].iov_len == segment || (i == last && sending->payloads[i].iov_len < segment));
}

/* Of a datagram that a raw socket is given, as its output keeps where it came from. */
static void skip_header(struct sending *sending, uint16_t port)
{
	const struct udphdr *header = sending->payloads->iov_base;

	if (!(world->worker->rules.outputs[sending->output].keeps & MCR_KEEP_ORIGIN))
		return;
	CHECK(sending->count == 2 && sending->payloads->iov_len == sizeof(*header));
	CHECK(header->dest == port && header->check);
	CHECK(ntohs(header->len) == sizeof(*header) + sending->payloads[1].iov_len);
	sending->headers = sizeof(*header);
	sending->payloads++;
	sending->count--;
}

static struct sending inspect(int fd, const struct msghdr *message)
{
	struct sending sending = { .payloads = message->msg_iov, .count = (uint32_t)message->msg_iovlen };
	const struct sockaddr_in *to = message->msg_name;
	uint32_t segment = segment_of(message);

	if (fd >= RAW_FD) {
		const struct mcr_raw_header *header = message->msg_iov->iov_base;

		CHECK(message->msg_iov->iov_len == sizeof(*header) && sending.count >= 2 && !to);
		segment = header->offload.gso_size;
		sending.raw = true;
		sending.headers = sizeof(*header);
		sending.output = ntohs(header->udp.dest) - PORT;
		sending.payloads++;
		sending.count--;
	} else {
		CHECK(message->msg_namelen == sizeof(*to));
		sending.output = ntohs(to->sin_port) - PORT;
		skip_header(&sending, to->sin_port);
	}
	check_socket(fd, &sending);
	check_payloads(&sending, segment);
	return sending;
}

/* It leaves: never before, and behind what has left by its output. */
static void take(const struct sending *sending)
{
	const struct mcr_batch *batch = &world->worker->batch;
	uint32_t *next = &world->next[sending->output];

	for (uint32_t i = 0; i < sending->count; i++) {
		while (*next < batch->iov_count && batch->iov[*next].iov_base != sending->payloads[i].iov_base)
			++*next;
		CHECK(*next < batch->iov_count && batch->iov[*next].iov_len == sending->payloads[i].iov_len);
		++*next;
	}
	world->sent += sending->count;
	world->bytes += sending->bytes;
}

/* Take it, or give one of the errors that the kernel may. */
static ssize_t send_somehow(int fd, const struct msghdr *message)
{
	static const int errors[] = { EAGAIN, EAGAIN, ENOBUFS, EPERM, EIO, EINVAL, EMSGSIZE, ENETDOWN, ENODEV };
	struct sending sending = inspect(fd, message);

	if (!rnd(16)) {
		errno = errors[rnd(sizeof(errors) / sizeof(*errors))];
		return -1;
	}
	take(&sending);
	world->raw += sending.raw ? sending.count : 0;
	world->common += fd == UDP_FD + COMMON ? sending.count : 0;
	return (ssize_t)(sending.bytes + sending.headers);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	CHECK(flags == MSG_DONTWAIT);
	return send_somehow(fd, message);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t to_size)
{
	struct iovec iov = { .iov_base = (void *)data, .iov_len = size };
	struct msghdr message = { .msg_name = (void *)to, .msg_namelen = to_size, .msg_iov = &iov, .msg_iovlen = 1 };

	CHECK(flags == MSG_DONTWAIT);
	return send_somehow(fd, &message);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	unsigned int i, limit = rnd(4) ? count : 1 + rnd(count);

	CHECK(flags == MSG_DONTWAIT && count);
	for (i = 0; i < limit; i++) {
		ssize_t sent = send_somehow(fd, &messages[i].msg_hdr);

		if (sent < 0)
			break;
		messages[i].msg_len = (unsigned int)sent;
	}
	return i ? (int)i : -1;
}

/* A capture's queue of whole copies: the one of the frame that was made last, another, or none. */
ssize_t recv(int fd, void *buffer, size_t size, int flags)
{
	size_t length = world->copy_size;

	CHECK(fd == CAPTURE_FD);
	if (!length) {
		errno = EAGAIN;
		return -1;
	}
	memcpy(buffer, world->copy, size < length ? size : length);
	if (!(flags & MSG_PEEK))
		world->copy_size = 0;
	return (ssize_t)(flags & MSG_TRUNC || length < size ? length : size);
}

/* What has to be true between two batches. */

static uint64_t sum_causes(const uint64_t *causes)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < MCR_CAUSES; i++)
		sum += causes[i];
	return sum;
}

/* Of those that another capture's have pushed out the next batch will tell. */
static uint64_t held_fragments(uint32_t slot)
{
	const struct mcr_reassembly *reassembly = &world->worker->reassembly;
	uint64_t sum = reassembly->fragments[slot];

	for (uint32_t i = 0; i < MCR_CAUSES; i++)
		sum += reassembly->lost[slot][i];
	return sum;
}

static void check_captures(const struct mcr_segment *segment)
{
	struct mcr_capture_counters sum = { 0 };

	for (uint32_t slot = 0; slot < CAPTURES; slot++) {
		const struct mcr_capture_counters *each = &segment->captures[slot];

		CHECK(each->recv == each->matched + each->no_match + each->buf_exhaust + sum_causes(each->causes));
		CHECK(each->fragments == held_fragments(slot));
		sum.recv += each->recv;
		sum.matched += each->matched;
		sum.no_match += each->no_match;
		sum.buf_exhaust += each->buf_exhaust;
		for (uint32_t i = 0; i < MCR_CAUSES; i++)
			sum.causes[i] += each->causes[i];
	}
	CHECK(sum.recv == segment->totals.recv && sum.matched == segment->totals.matched);
	CHECK(sum.no_match == segment->totals.no_match && sum.buf_exhaust == segment->totals.buf_exhaust);
	CHECK(!memcmp(sum.causes, segment->totals.causes, sizeof(sum.causes)));
}

static void check_outputs(const struct mcr_segment *segment)
{
	struct mcr_output_counters sum = { 0 };
	uint64_t matched = 0;

	for (uint32_t rule = 0; rule < RULES; rule++)
		matched += segment->rules[rule].matched;
	for (uint32_t at = 0; at < RULES * OUTPUTS; at++) {
		const struct mcr_output_counters *output = &segment->outputs[at];

		CHECK(output->submitted == output->sent + output->errors && output->in_doubt <= output->errors);
		CHECK(world->worker->rules.outputs[at].max_train != 1 || /* what is refused is so for a while */
		      world->worker->rules.outputs[at].keeps & MCR_KEEP_ORIGIN);
		sum.submitted += output->submitted;
		sum.sent += output->sent;
		sum.errors += output->errors;
		sum.in_doubt += output->in_doubt;
		sum.bytes += output->bytes;
	}
	CHECK(matched == segment->totals.matched && sum.submitted == segment->totals.submitted);
	CHECK(sum.sent == segment->totals.sent && sum.errors == segment->totals.errors);
	CHECK(sum.in_doubt == segment->totals.in_doubt && sum.bytes == segment->totals.bytes);
}

static void check_identities(const struct world *w)
{
	const struct mcr_totals *totals = &w->worker->segment->totals;

	CHECK(totals->recv == totals->matched + totals->parse_err + totals->no_match + totals->buf_exhaust);
	CHECK(totals->parse_err == sum_causes(totals->causes));
	CHECK(totals->submitted == totals->sent + totals->errors);
	CHECK(totals->sent == w->sent && totals->bytes == w->bytes);
	check_captures(w->worker->segment);
	check_outputs(w->worker->segment);
}

static void drain_events(struct world *w)
{
	uint8_t body[256];
	uint32_t type;

	while (mcr_ring_pop(&w->events, &type, body, sizeof(body)) >= 0)
		CHECK(type == MCR_REC_LOG || type == MCR_REC_SAMPLE);
}

/* Move what is in a ring, batch by batch. Then nothing of it waits, unless fragments do. */
static void move_all(struct world *w, uint32_t slot, uint32_t left)
{
	const struct mcr_capture_counters *capture = &w->worker->segment->captures[slot];

	drains[slot].entered += left;

	for (; left; w->batches++) {
		uint64_t before = capture->recv;
		uint32_t taken;

		memset(w->next, 0, sizeof(w->next));
		taken = mcr_loop_move(w->worker, slot);
		CHECK(taken && taken <= left && capture->recv >= before);
		left -= taken;
		check_identities(w);
	}
	CHECK(!mcr_loop_move(w->worker, slot));
	CHECK((drains[slot].seen == drains[slot].entered) == !w->worker->reassembly.fragments[slot]);
	CHECK(w->worker->segment->totals.matched >= w->owed);
}

/* A rule that packets are not yet looked up for, by VLAN or IPv6, is not taken for another. */
static void check_flows(struct world *w)
{
	struct mcr_flow flows[] = {
		mcr_flow_ipv4(0, MCR_MAX_VLANS, 0, htonl(0xef010100), htons(5000)),
		mcr_flow_ipv4(CAPTURES, 0, 0, htonl(0xef010100), htons(5000)),
		mcr_flow_ipv4(0, 0, 0, htonl(0xef010100), htons(5000)),
	};

	flows[1].interface = MCR_MAX_INTERFACES;
	flows[2].family = AF_UNIX;
	for (uint32_t i = 0; i < sizeof(flows) / sizeof(*flows); i++) {
		struct mcr_rec_rule head = { .tag = 99, .rule = RULES, .flow = flows[i] };

		CHECK(mcr_rules_put(&w->worker->rules, w->worker->segment, &head, NULL) == -EINVAL);
	}
}

static void report(const struct world *w)
{
	const struct mcr_totals *totals = &w->worker->segment->totals;
	uint64_t refused = 0;

	for (uint32_t i = 0; i < MCR_MAX_REFUSED; i++)
		refused += w->worker->segment->refused[i];
	CHECK(refused == totals->causes[MCR_CAUSE_RETURNED] && w->worker->refused.count == RULES);
	printf("%llu batches, %llu frames:", (unsigned long long)w->batches, (unsigned long long)w->frames);
	printf(" %llu matched, %llu sent,", (unsigned long long)totals->matched, (unsigned long long)totals->sent);
	printf(" %llu raw, %llu by a common socket,", (unsigned long long)w->raw, (unsigned long long)w->common);
	for (uint32_t i = 0; i < MCR_CAUSES; i++) {
		CHECK(totals->causes[i]);
		printf(" %llu", (unsigned long long)totals->causes[i]);
	}
	printf(" by cause, %llu no match, %llu without a buffer\n", (unsigned long long)totals->no_match,
	       (unsigned long long)totals->buf_exhaust);
	printf("%llu in fragments, %llu of IPv6\n", (unsigned long long)w->parts, (unsigned long long)w->parts6);
	CHECK(w->parts && w->parts6 && totals->matched && totals->no_match && totals->buf_exhaust && totals->errors &&
	      totals->in_doubt && w->raw && w->common);
}

int main(int argc, char **argv)
{
	uint64_t batches = argc == 3 ? strtoull(argv[1], NULL, 10) : 0;

	CHECK(batches);
	world = world_open(strtoull(argv[2], NULL, 10));
	open_egress(world->worker);
	world->worker->drains = drains;
	world->worker->segment->header.workers = 1;
	check_flows(world);
	while (world->batches < batches) {
		uint32_t slot = rnd(CAPTURES);

		move_all(world, slot, world_fill(world, slot));
		drain_events(world);
		world_change(world);
		world->worker->egress[COMMON].held = rnd(8);
	}
	report(world);
	world_close(world);
	return 0;
}
