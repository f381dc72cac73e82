// SPDX-License-Identifier: MIT
/* For where io_uring is forbidden or missing: poll(2). */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "engine.h"
#include "loop.h"

enum { POLL_WAKE, POLL_CHANNEL, POLL_CAPTURES };

static int poll_open(struct mcr_worker *worker)
{
	(void)worker;
	return 0;
}

static void poll_close(struct mcr_worker *worker)
{
	(void)worker;
}

static int wait_ms(struct mcr_worker *worker, int timeout)
{
	struct pollfd fds[POLL_CAPTURES + MCR_MAX_INTERFACES] = {
		[POLL_WAKE] = { .fd = worker->wake_fd, .events = POLLIN },
		[POLL_CHANNEL] = { .fd = worker->channel.fd, .events = POLLRDHUP },
	};
	struct pollfd *captures = fds + POLL_CAPTURES;
	uint32_t count = timeout ? worker->active_count : 0; /* a look is not for captures: they are read anyway */

	for (uint32_t i = 0; i < count; i++)
		captures[i] = (struct pollfd){ .fd = worker->captures[worker->active[i]].fd, .events = POLLIN };
	if (poll(fds, POLL_CAPTURES + count, timeout) < 0)
		return errno == EINTR ? 0 : -errno;
	if (fds[POLL_WAKE].revents & POLLIN &&
	    read(worker->wake_fd, &worker->wake_count, sizeof(worker->wake_count)) < 0 && errno != EAGAIN)
		return -errno;
	worker->abandoned |= fds[POLL_CHANNEL].revents & (POLLRDHUP | POLLHUP);
	for (uint32_t i = 0; i < count; i++)
		if (captures[i].revents)
			mcr_loop_captured(worker, worker->active[i], captures[i].revents);
	return 0;
}

static int poll_look(struct mcr_worker *worker)
{
	return wait_ms(worker, 0);
}

static int poll_wait(struct mcr_worker *worker, bool briefly)
{
	return wait_ms(worker, briefly ? 1000 : -1);
}

static int poll_forget(struct mcr_worker *worker, uint32_t slot)
{
	(void)worker;
	(void)slot;
	return 0;
}

const struct mcr_engine mcr_poll_engine = {
	.id = MCR_ENGINE_POLL,
	.open = poll_open,
	.close = poll_close,
	.look = poll_look,
	.wait = poll_wait,
	.forget = poll_forget,
};
