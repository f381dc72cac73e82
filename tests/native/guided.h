/* SPDX-License-Identifier: MIT */
/*
 * Coverage-guided fuzzing with what any compiler has (-fsanitize-coverage=trace-pc): inputs that reach something new are
 * kept, and changed further. The target is LLVMFuzzerTestOneInput(), so libFuzzer drives it, too.
 */
#ifndef GUIDED_H
#define GUIDED_H

#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

#include "common.h"

#define EDGES       4096u /* counters; two edges may share one */
#define INPUT_BYTES 512u
#define MAX_CORPUS  4096u
#define NO_TRACE    __attribute__((no_sanitize_coverage, no_sanitize_address))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_cov_trace_pc(void);
void __sanitizer_set_death_callback(void (*callback)(void));

struct input {
	uint32_t size;
	uint8_t data[INPUT_BYTES];
};

static uint8_t edges[EDGES], reached[EDGES]; /* by this input; by any, a bit for each order of magnitude */
static uint16_t touched[EDGES];              /* the edges that are not 0 */
static uint32_t touched_count;
static uintptr_t before;
static struct input *corpus, current;
static uint32_t corpus_count;

/* The compiler calls it on each basic block. */
NO_TRACE void __sanitizer_cov_trace_pc(void)
{
	uintptr_t here = (uintptr_t)__builtin_return_address(0);
	uint32_t edge = (uint32_t)((here ^ before) * UINT64_C(0x9e3779b97f4a7c15) >> 52) % EDGES;

	before = here >> 1;
	if (!edges[edge])
		touched[touched_count++] = (uint16_t)edge;
	edges[edge] += edges[edge] != UINT8_MAX;
}

NO_TRACE static void show_input(void)
{
	fprintf(stderr, "input of %u bytes: ", current.size);
	for (uint32_t i = 0; i < current.size; i++)
		fprintf(stderr, "%02x", current.data[i]);
	fprintf(stderr, "\n");
}

NO_TRACE static void on_abort(int signal)
{
	(void)signal;
	show_input();
	_exit(1);
}

/* Run the current input; whether it has reached something that none has before. */
NO_TRACE static bool is_new(void)
{
	bool found = false;

	before = 0;
	LLVMFuzzerTestOneInput(current.data, current.size);
	while (touched_count) {
		uint16_t edge = touched[--touched_count];
		uint8_t magnitude = (uint8_t)(1u << (31 - __builtin_clz(edges[edge])));

		found |= magnitude & ~reached[edge];
		reached[edge] |= magnitude;
		edges[edge] = 0;
	}
	return found;
}

NO_TRACE static void keep(void)
{
	if (corpus_count < MAX_CORPUS)
		corpus[corpus_count++] = current;
}

NO_TRACE static void change_once(void)
{
	static const uint8_t special[] = { 0, 1, 4, 8, 17, 20, 28, 0x40, 0x45, 0x4f, 0x60, 0x7f, 0x80, 0xe0, 0xff };
	const struct input *other = &corpus[rnd(corpus_count)];
	uint32_t at = current.size ? rnd(current.size) : 0, left = current.size - at;

	switch (current.size ? rnd(7) : 6) {
	case 0:
		current.data[at] ^= (uint8_t)(1u << rnd(8));
		break;
	case 1:
		current.data[at] = (uint8_t)rnd(256);
		break;
	case 2:
		current.data[at] = special[rnd(sizeof(special))];
		break;
	case 3:
		current.data[at] += (uint8_t)(1 + rnd(4) - 2 * rnd(4));
		break;
	case 4:
		current.size = at;
		break;
	case 5: /* a part of another */
		memcpy(current.data + at, other->data + at,
		       other->size > at ? (other->size - at < left ? other->size - at : left) : 0);
		break;
	default:
		left = 1 + rnd(16);
		for (; left && current.size < INPUT_BYTES; left--)
			current.data[current.size++] = (uint8_t)rnd(256);
	}
}

NO_TRACE static void read_seed(const char *directory, const char *name)
{
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "rb");
	CHECK(file);
	current.size = (uint32_t)fread(current.data, 1, INPUT_BYTES, file);
	fclose(file);
	is_new();
	keep();
}

NO_TRACE static void read_seeds(const char *directory)
{
	struct dirent **names;
	int count = scandir(directory, &names, NULL, alphasort);

	CHECK(count > 2);
	for (int i = 0; i < count; i++) {
		if (names[i]->d_name[0] != '.')
			read_seed(directory, names[i]->d_name);
		free(names[i]);
	}
	free(names);
}

NO_TRACE static void show_progress(uint64_t executions)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < EDGES; i++)
		count += reached[i] != 0;
	printf("%llu executions, %u inputs, %u edges\n", (unsigned long long)executions, corpus_count, count);
	fflush(stdout);
}

/* guided CORPUS EXECUTIONS SEED */
NO_TRACE int main(int argc, char **argv)
{
	uint64_t executions = argc == 4 ? strtoull(argv[2], NULL, 10) : 0;

	CHECK(executions);
	seed(strtoull(argv[3], NULL, 10));
	signal(SIGABRT, on_abort);
	__sanitizer_set_death_callback(show_input);
	corpus = malloc(MAX_CORPUS * sizeof(*corpus));
	CHECK(corpus);
	read_seeds(argv[1]);
	for (uint64_t i = 1; i <= executions; i++) {
		current = corpus[rnd(corpus_count)];
		for (uint32_t changes = 1 + rnd(5); changes; changes--)
			change_once();
		if (is_new())
			keep();
		if (!(i % 10000000))
			show_progress(i);
	}
	show_progress(executions);
	free(corpus);
	return 0;
}

#endif
