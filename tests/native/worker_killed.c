// SPDX-License-Identifier: MIT
/*
 * kill -9 of a worker after a random number of machine instructions, again and again; each time a successor takes
 * over the segment and the capture ring. Then every counter is exact, nothing was sent twice, and what is missing at
 * the receiver is no more than what is counted as in doubt.
 *
 *	worker_killed KILLS SEED [raw]
 */
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "harness.h"
#include "journal.h"

/* Instructions that a worker takes at most to reach each phase of its journal, and then spends in it. */
#define REACH 20000
static const unsigned int spend[] = {
	[MCR_PHASE_IDLE] = 2000,
	[MCR_PHASE_SENDING] = 1200,
	[MCR_PHASE_COMMIT] = 400,
	[MCR_PHASE_RELEASING] = 80,
};

#define BATCH 12

static pid_t start(struct harness *h)
{
	pid_t child;

	tell_everything(h, 1);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		close(h->channel); /* or it would hold its own lifeline */
		_exit(run_worker(h) ? 1 : 0);
	}
	close(h->worker_channel);
	return child;
}

/* The successor has read what its predecessor left, and everything before `position`. */
static void wait_for_cursor(struct harness *h, uint64_t position)
{
	while (mcr_load_acquire(&h->segment->captures[0].cursor) < position ||
	       mcr_journal_state(h->segment).phase != MCR_PHASE_IDLE)
		sched_yield();
}

#ifdef __x86_64__
/*
 * Where a worker has mapped the segment: elsewhere than this process, of which it has inherited the other mapping.
 * 0: it has just begun.
 */
static uintptr_t segment_of(const struct harness *h, pid_t child)
{
	char path[32], line[512];
	unsigned long start, inode;
	uintptr_t found = 0;
	struct stat segment;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)child);
	maps = fopen(path, "r");
	CHECK(maps && !fstat(h->segment_fd, &segment));
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%*x %*s %*s %*s %lu", &start, &inode) == 2 && inode == segment.st_ino &&
		    start != (uintptr_t)h->segment)
			found = start;
	}
	fclose(maps);
	return found;
}

/* Have the processor stop a process where it writes these eight bytes (Intel, volume 3B, 19.2.4). */
static bool stop_at_writes(pid_t child, uintptr_t address)
{
	const unsigned long on = 1 << 0 | 1 << 16 | 2 << 18;
	size_t registers = offsetof(struct user, u_debugreg);

	return !ptrace(PTRACE_POKEUSER, child, registers, address) &&
	       !ptrace(PTRACE_POKEUSER, child, registers + 7 * sizeof(on), on);
}

/* Whether it does: user-mode Linux takes the registers, and nothing comes of it. */
static bool is_stopped_at_writes(void)
{
	static volatile uint64_t word;
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		word = 1;
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	stop_at_writes(child, (uintptr_t)&word);
	CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
	CHECK(waitpid(child, &status, 0) == child);
	if (WIFEXITED(status))
		return false;
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
	return true;
}
#endif

/*
 * Which turn of ptrace takes a worker to its next phase: PTRACE_CONT at once, if the processor stops it there;
 * PTRACE_SINGLESTEP in thousands.
 */
static enum __ptrace_request watch(const struct harness *h, pid_t child)
{
#ifdef __x86_64__
	uintptr_t segment = segment_of(h, child);

	if (segment && is_stopped_at_writes() &&
	    stop_at_writes(child, segment + offsetof(struct mcr_segment, journal.state)))
		return PTRACE_CONT;
#endif
	return PTRACE_SINGLESTEP;
}

static void go_on(pid_t child, enum __ptrace_request by)
{
	int status;

	CHECK(ptrace(by, child, NULL, NULL) == 0);
	CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
}

/* Let it come to a phase and some way into it, then kill. */
static void kill_within(struct harness *h, pid_t child, enum mcr_phase phase)
{
	unsigned int reach = REACH, more = (unsigned int)rand() % spend[phase];
	enum __ptrace_request by = watch(h, child);
	int status;

	while (reach-- && mcr_journal_state(h->segment).phase != phase)
		go_on(child, by);
	while (more--)
		go_on(child, PTRACE_SINGLESTEP);
	CHECK(kill(child, SIGKILL) == 0);
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
}

/* Every counter is exact, and nothing was sent twice. What is missing at the receiver. */
static uint64_t count_missing(const struct harness *h, const uint8_t *seen, uint64_t sequence)
{
	uint64_t missing = 0;

	check_identities(h->segment, sequence);
	CHECK(h->segment->totals.errors == h->segment->totals.in_doubt);
	for (uint64_t i = 0; i < sequence; i++) {
		CHECK(seen[i] <= 1);
		missing += !seen[i];
	}
	CHECK(missing <= h->segment->totals.in_doubt);
	return missing;
}

int main(int argc, char **argv)
{
	unsigned int kills = argc > 2 ? (unsigned int)atoi(argv[1]) : 0, phases[4] = { 0 };
	uint64_t limit = (uint64_t)(kills + 1) * BATCH, sequence = 0, missing;
	uint8_t *seen = calloc(limit + 1, 1);
	struct harness h;
	int status;
	pid_t child;

	CHECK(kills);
	srand((unsigned int)atoi(argv[2]));
	harness_open(&h);
	if (argc > 3)
		send_raw(&h, WIDE);
	for (unsigned int turn = 0; turn < kills; turn++) {
		child = start(&h);
		wait_for_cursor(&h, sequence);
		CHECK(ptrace(PTRACE_SEIZE, child, NULL, NULL) == 0);
		CHECK(ptrace(PTRACE_INTERRUPT, child, NULL, NULL) == 0);
		CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
		for (int i = 0; i < BATCH; i++)
			CHECK(produce(&h, sequence++));
		kill_within(&h, child, (enum mcr_phase)(turn % 4));
		phases[mcr_journal_state(h.segment).phase]++;
		close(h.channel);
		receive(&h, seen, limit);
	}
	child = start(&h);
	wait_for_cursor(&h, sequence);
	command(&h, MCR_REC_STOP, NULL, 0);
	CHECK(write(h.wake_fd, &(uint64_t){ 1 }, 8) == 8);
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	receive(&h, seen, limit);

	missing = count_missing(&h, seen, sequence);
	printf("%u kills: idle %u, sending %u, commit %u, releasing %u; %llu packets, %llu in doubt, %llu missing\n",
	       kills, phases[MCR_PHASE_IDLE], phases[MCR_PHASE_SENDING], phases[MCR_PHASE_COMMIT],
	       phases[MCR_PHASE_RELEASING], (unsigned long long)sequence,
	       (unsigned long long)h.segment->totals.in_doubt, (unsigned long long)missing);
	free(seen);
	/* Every phase must have been hit, or the test says nothing about it. */
	return !(phases[MCR_PHASE_SENDING] && phases[MCR_PHASE_COMMIT] && phases[MCR_PHASE_RELEASING]);
}
