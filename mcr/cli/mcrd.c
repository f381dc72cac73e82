// SPDX-License-Identifier: MIT
/*
 * bin/mcrd: a program that capabilities can be set on (setcap(8)).
 *
 * File capabilities end at the next execve(2), and set on the interpreter they would be everybody's. So this program
 * makes those that it was given ambient ones (capabilities(7), since Linux 4.3) and becomes the Python beside it.
 *
 * It also does what Python would do too late: block signals, and fill descriptors 0 to 2.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PYTHON    "python"
#define ARGUMENTS "-I", "-m", "mcr.cli.mcrd"

static int fail(const char *what, int number, const char *hint)
{
	fprintf(stderr, "Error: %s: %s (os error %d)\n", what, strerror(number), number);
	if (hint)
		fprintf(stderr, "hint: %s\n", hint);
	return EXIT_FAILURE;
}

/* Puts the path of the Python beside this program, links followed, into `path`. 0 or -errno. */
static int find_python(char path[PATH_MAX])
{
	ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
	char *name;

	if (length < 0)
		return -errno;
	if (length >= PATH_MAX - (ssize_t)sizeof(PYTHON))
		return -ENAMETOOLONG;
	path[length] = '\0';
	name = strrchr(path, '/') + 1;
	memcpy(name, PYTHON, sizeof(PYTHON));
	return 0;
}

/* Whether only root and the owner of this program can change a file, or the content of a directory. */
static bool is_trusted(const struct stat *file, const struct stat *self)
{
	bool by_group = file->st_mode & S_IWGRP && file->st_gid != 0 && file->st_gid != self->st_gid;

	if (file->st_uid != 0 && file->st_uid != self->st_uid)
		return false;
	return file->st_mode & S_ISVTX || (!by_group && !(file->st_mode & S_IWOTH));
}

/* The same of every directory on the way to a file, so that none is another when Python is executed. 0 or -errno. */
static int check_way(const char *file, const struct stat *self)
{
	char directory[PATH_MAX];
	struct stat status;

	for (const char *end = strchr(file, '/'); end; end = strchr(end + 1, '/')) {
		memcpy(directory, file, (size_t)(end - file) + 1);
		directory[end - file + 1] = '\0';
		if (lstat(directory, &status))
			return -errno;
		if (!is_trusted(&status, self))
			return -EPERM;
	}
	return 0;
}

/*
 * A user who links to this file could put another Python beside the link and gain the capabilities. So that Python, and
 * all directories above it, must belong to the owner of this file, or to root. 0 or -errno.
 */
static int check_owners(const char *python)
{
	struct stat self, beside;

	if (stat("/proc/self/exe", &self) || stat(python, &beside))
		return -errno;
	return is_trusted(&beside, &self) ? check_way(python, &self) : -EPERM;
}

/*
 * Leave in the environment what mcrd itself reads. The C library cleans it for this program, and not for Python, which
 * gains nothing by the exec; and a variable of OpenSSL's, for one, names code to load.
 */
static void clean_environment(void)
{
	static const char *const kept[] = { "MCR_", "NOTIFY_SOCKET=", "WATCHDOG_", "JOURNAL_STREAM=", "NO_COLOR=" };
	char **to = environ;

	for (char **from = environ; *from; from++) {
		for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++) {
			if (!strncmp(*from, kept[i], strlen(kept[i])))
				*to++ = *from;
		}
	}
	*to = NULL;
}

/* Makes the next execve keep this program's capabilities. 0 or -errno. */
static int keep_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data))
		return -errno;
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
		data[i].inheritable = data[i].permitted;
	if (syscall(SYS_capset, &header, data))
		return -errno;
	for (int capability = 0; capability <= CAP_LAST_CAP; capability++) {
		if (!(data[CAP_TO_INDEX(capability)].permitted & CAP_TO_MASK(capability)))
			continue;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))
			return -errno;
	}
	return 0;
}

/* If one of descriptors 0 to 2 is closed, a socket would get its number, and standard error would go there. 0 or -errno. */
static int open_standard_descriptors(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
		if (fd < 0)
			return -errno;
	} while (fd <= STDERR_FILENO);
	close(fd);
	return 0;
}

/*
 * Until mcrd can act on them (mcr/process/signals.py). A shell has what it starts in the background ignore SIGINT, and
 * nohup SIGHUP: what is ignored does not wait.
 */
static void hold_signals(void)
{
	static const int heard[] = { SIGHUP, SIGINT, SIGTERM };
	sigset_t held;

	sigemptyset(&held);
	for (size_t i = 0; i < sizeof(heard) / sizeof(*heard); i++) {
		sigaddset(&held, heard[i]);
		signal(heard[i], SIG_DFL);
	}
	sigaddset(&held, SIGTTOU); /* never: writing to the terminal from the background stops nothing */
	sigprocmask(SIG_BLOCK, &held, NULL);
}

/* Executes Python; returns only if it can't. */
static int become(char *python, int argc, char **argv)
{
	static char *const prefix[] = { ARGUMENTS };
	const int prefixed = sizeof(prefix) / sizeof(*prefix);
	char **arguments = calloc((size_t)(1 + prefixed + argc + 1), sizeof(*arguments));

	if (!arguments)
		return -ENOMEM;
	arguments[0] = python; /* finds its virtual environment by it */
	memcpy(arguments + 1, prefix, sizeof(prefix));
	for (int i = 1; i < argc; i++)
		arguments[prefixed + i] = argv[i];
	execv(python, arguments);
	return -errno;
}

int main(int argc, char **argv)
{
	char python[PATH_MAX];
	int ret = open_standard_descriptors();

	if (ret)
		return fail("/dev/null", -ret, NULL);
	hold_signals();
	ret = find_python(python);
	if (ret)
		return fail("Cannot find out where mcrd is", -ret, "is /proc mounted?");
	/* It has capabilities that its caller lacks. Shell completion needs none. */
	if (getauxval(AT_SECURE) && !getenv("_MCRD_COMPLETE")) {
		ret = check_owners(python);
		if (ret)
			return fail(
				python, -ret,
				"mcrd has capabilities: the Python beside it, and the directory, must belong to its "
				"owner or to root");
		clean_environment();
		ret = keep_capabilities();
		if (ret)
			return fail("Cannot pass on capabilities", -ret, NULL);
	}
	ret = become(python, argc, argv);
	return fail(python, -ret,
		    ret == -EACCES ? "you may not execute it, or not reach what it is a link to: ls -lL, namei -l"
				   : "mcrd belongs into the bin directory of its virtual environment");
}
