// SPDX-License-Identifier: MIT
#include "later.h"

#include <liburing.h>
#include <unistd.h>

int mcr_close_after_exit(const int *fds, uint32_t count)
{
	struct io_uring ring; /* is not closed: it goes with the process, and its files after that */
	int ret;

	ret = io_uring_queue_init(1, &ring, 0);
	if (ret)
		return ret;
	ret = io_uring_register_files(&ring, fds, count);
	if (ret) {
		io_uring_queue_exit(&ring);
		return ret;
	}
	for (uint32_t i = 0; i < count; i++)
		close(fds[i]);
	return 0;
}
