// SPDX-License-Identifier: MIT
// Sets a worker up, runs its loop, tears it down.
#include "worker.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "drain.h"
#include "engine.h"
#include "journal.h"
#include "loop.h"
#include "privileges.h"

#define SLICE_NS 100000 /* the shortest that there is */

static int map_segment(struct mcr_worker *worker, int fd)
{
	void *segment = mmap(NULL, sizeof(struct mcr_segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (segment == MAP_FAILED)
		return -errno;
	worker->segment = segment;
	if (worker->segment->header.version != MCR_ABI_VERSION ||
	    worker->segment->header.length != sizeof(struct mcr_segment))
		return -EPROTO;
	return 0;
}

/*
 * A predecessor that died while it wrote counters: write them again. Its packets come with their capture. If this one dies
 * before that, the next one must not write them a third time: other rules may count in their places by then.
 */
static void recover_counters(struct mcr_worker *worker)
{
	int ret;

	if (mcr_journal_state(worker->segment).phase != MCR_PHASE_COMMIT)
		return;
	ret = mcr_journal_apply(worker->segment);
	mcr_journal_clear(worker->segment);
	if (!ret)
		return;
	/* No worker writes such a journal. Going on with counters that may be off is better than never going on. */
	mcr_journal_enter(worker->segment, (struct mcr_journal_state){ MCR_PHASE_IDLE, 0, 0 });
	mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_CRITICAL, MCR_LOG_JOURNAL_BROKEN, 0, 0, 0);
}

static void init_tables(struct mcr_worker *worker)
{
	struct mcr_segment *segment = worker->segment;

	mcr_ring_open_consumer(&worker->commands, &segment->rule_ring, segment->rule_data, MCR_RULE_RING_BYTES);
	mcr_ring_open_producer(&worker->events, &segment->event_ring, segment->event_data, MCR_EVENT_RING_BYTES);
	mcr_log_init(&worker->log, &worker->events, &segment->totals.log_dropped);
	mcr_rules_init(&worker->rules);
	worker->refusals.epoch = 1;
}

/* io_uring if it works here; poll otherwise, whatever the reason. */
static int open_engine(struct mcr_worker *worker)
{
	int ret, refused;

	worker->engine = &mcr_uring_engine;
	ret = refused = worker->engine->open(worker);
	if (ret) {
		worker->engine = &mcr_poll_engine;
		ret = worker->engine->open(worker);
	}
	worker->segment->header.engine = worker->engine->id;
	mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_INFO, MCR_LOG_STARTED, worker->engine->id,
		(uint64_t)-refused, 0);
	return ret;
}

static void confine(struct mcr_worker *worker)
{
	int ret = mcr_confine();

	if (ret)
		mcr_log(&worker->log, MCR_FACILITY_WORKER, MCR_LEVEL_WARNING, MCR_LOG_NOT_CONFINED, -ret, 0, 0);
}

/* The name that ps and top show. */
static void name_process(uint32_t worker_id)
{
	char name[16];

	snprintf(name, sizeof(name), "mcr-worker-%u", worker_id);
	prctl(PR_SET_NAME, name);
}

/* What a time slice is asked for by; <linux/sched/types.h> of many distributions lacks it, or clashes with <sched.h>. */
struct slice_request {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t slice_ns, deadline, period;
};

/*
 * A thread with a shorter slice than the running one takes its place when it is woken (Linux 6.12; older kernels don't
 * mind): the supervisor's, for one, which would keep a packet waiting for a millisecond.
 */
static void shorten_slice(void)
{
	struct slice_request request = { .size = sizeof(request), .policy = SCHED_OTHER, .slice_ns = SLICE_NS };

	if (sched_getscheduler(0) != SCHED_OTHER) /* somebody has made a choice */
		return;
	request.nice = getpriority(PRIO_PROCESS, 0);
	syscall(SYS_sched_setattr, 0, &request, 0);
}

/* Let go of the rings and the segment, and tell mcrd: another worker may go on with them from here. */
static void hand_back(struct mcr_worker *worker)
{
	static const char done;

	if (!worker->segment)
		return;
	for (uint32_t i = 0; i < MCR_MAX_INTERFACES; i++)
		if (worker->captures[i].slots)
			mcr_capture_detach(&worker->captures[i]);
	mcr_drain_unmap(worker);
	munmap(worker->segment, sizeof(*worker->segment));
	worker->segment = NULL;
	send(worker->channel.fd, &done, sizeof(done), MSG_DONTWAIT | MSG_NOSIGNAL); /* if it has gone, so be it */
}

static int run(struct mcr_worker *worker, int segment_fd, int drain_fd)
{
	int ret = map_segment(worker, segment_fd);

	if (!ret && drain_fd >= 0)
		ret = mcr_drain_map(worker, drain_fd);
	if (ret)
		return ret;
	name_process(worker->segment->header.worker_id);
	init_tables(worker);
	recover_counters(worker);
	worker->segment->header.step = MCR_STEP_ENGINE;
	ret = open_engine(worker);
	if (ret)
		return ret;
	if (worker->confined)
		confine(worker);
	worker->segment->header.step = MCR_STEP_RUN;
	ret = mcr_loop_run(worker);
	hand_back(worker);
	worker->engine->close(worker);
	return ret;
}

/* The kernel takes some time for each socket that sends raw frames. */
static void release(struct mcr_worker *worker)
{
	hand_back(worker);
	for (uint32_t i = 0; i < MCR_MAX_EGRESS; i++) {
		if (worker->egress[i].held)
			close(worker->egress[i].fd);
		if (worker->egress[i].raw)
			close(worker->egress[i].raw_fd);
	}
}

int mcr_worker_run(int segment_fd, int channel_fd, int wake_fd, int event_fd, int drain_fd, bool confined)
{
	struct mcr_worker *worker;
	int ret;

	/* Zero pages, touched only where used: room for every rule costs nothing until there is one. */
	worker = mmap(NULL, sizeof(*worker), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (worker == MAP_FAILED)
		return -errno;
	for (uint32_t i = 0; i < MCR_MAX_INTERFACES; i++)
		worker->captures[i].fd = -1;
	shorten_slice();
	prctl(PR_SET_TIMERSLACK, 1); /* the batching delay is shorter than the default slack */
	worker->channel.fd = channel_fd;
	worker->wake_fd = wake_fd;
	worker->event_fd = event_fd;
	worker->confined = confined;
	ret = run(worker, segment_fd, drain_fd);
	release(worker);
	mcr_channel_close(&worker->channel);
	munmap(worker, sizeof(*worker));
	close(segment_fd);
	close(wake_fd);
	close(event_fd);
	return ret;
}
