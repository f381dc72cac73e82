// SPDX-License-Identifier: MIT
#include "cgroup.h"

#include <errno.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

/* System calls, as the C library knows them since 2.36 only. */
int mcr_cgroup_open(void)
{
	int ret, context = (int)syscall(SYS_fsopen, "cgroup2", FSOPEN_CLOEXEC);

	if (context < 0)
		return -errno;
	ret = (int)syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	if (!ret)
		ret = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
	if (ret < 0)
		ret = -errno;
	close(context);
	return ret;
}
