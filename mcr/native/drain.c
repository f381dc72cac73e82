// SPDX-License-Identifier: MIT
#include "drain.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t size_of(const struct mcr_worker *worker)
{
	return sizeof(*worker->drains) * MCR_MAX_INTERFACES * worker->segment->header.workers;
}

int mcr_drain_map(struct mcr_worker *worker, int fd)
{
	void *drains;

	if (worker->segment->header.worker_id >= worker->segment->header.workers)
		return -EPROTO;
	drains = mmap(NULL, size_of(worker), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (drains == MAP_FAILED)
		return -errno;
	worker->drains = drains;
	close(fd); /* nobody needs it as a map */
	return 0;
}

void mcr_drain_unmap(struct mcr_worker *worker)
{
	if (worker->drains)
		munmap(worker->drains, size_of(worker));
	worker->drains = NULL;
}
