// SPDX-License-Identifier: MIT
#include "bpf/types.h"

#include <fcntl.h>
#include <linux/btf.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_BYTES (1u << 26)
#define DECLARED   17 /* kinds that <linux/btf.h> may have no names for: BTF_KIND_DECL_TAG, BTF_KIND_ENUM64 */
#define ENUM64     19

/* Five bits: BTF_INFO_KIND of headers before Linux 5.13 has four, and takes an ENUM64 for an array. */
#define KIND_OF(type) ((type)->info >> 24 & 0x1f)

/* A description in memory. */
struct types {
	const uint8_t *bytes;
	uint32_t at, end; /* the next type, and where they end */
	uint32_t names, names_end;
};

/* Bytes that follow a type. */
static uint32_t rest_of(const struct btf_type *type)
{
	uint32_t count = BTF_INFO_VLEN(type->info);

	switch (KIND_OF(type)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case DECLARED:
		return sizeof(uint32_t);
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return count * (uint32_t)sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return count * (uint32_t)sizeof(struct btf_enum);
	case BTF_KIND_FUNC_PROTO:
		return count * (uint32_t)sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
	case ENUM64:
		return count * 3u * (uint32_t)sizeof(uint32_t);
	default: /* those that refer to one other type, or to none */
		return 0;
	}
}

/* Whether all of it is there. A zero stands behind it, so that each name ends. */
static bool begin(struct types *types, const uint8_t *bytes, uint32_t size)
{
	struct btf_header header;
	uint64_t types_at, names_at;

	if (size < sizeof(header))
		return false;
	memcpy(&header, bytes, sizeof(header));
	types_at = (uint64_t)header.hdr_len + header.type_off;
	names_at = (uint64_t)header.hdr_len + header.str_off;
	if (header.magic != BTF_MAGIC || types_at + header.type_len > size || names_at + header.str_len > size ||
	    types_at % sizeof(uint32_t))
		return false;
	*types = (struct types){ .bytes = bytes,
				 .at = (uint32_t)types_at,
				 .end = (uint32_t)(types_at + header.type_len),
				 .names = (uint32_t)names_at,
				 .names_end = (uint32_t)(names_at + header.str_len) };
	return true;
}

static void compare(const struct types *types, const struct btf_type *type, uint32_t number, const char *const names[],
		    uint32_t numbers[], uint32_t count)
{
	if (KIND_OF(type) != BTF_KIND_FUNC || type->name_off >= types->names_end - types->names)
		return;
	for (uint32_t i = 0; i < count; i++)
		if (!strcmp((const char *)types->bytes + types->names + type->name_off, names[i]))
			numbers[i] = number;
}

static void walk(struct types *types, const char *const names[], uint32_t numbers[], uint32_t count)
{
	for (uint32_t number = 1; types->end - types->at >= sizeof(struct btf_type); number++) {
		const struct btf_type *type = (const void *)(types->bytes + types->at);
		uint32_t rest = rest_of(type);

		types->at += (uint32_t)sizeof(*type);
		compare(types, type, number, names, numbers, count);
		if (rest > types->end - types->at)
			return;
		types->at += rest;
	}
}

/* All of a file, and a zero. NULL: it can't be read, or is too long. */
static uint8_t *read_all(const char *path, uint32_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t most = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	uint8_t *bytes = most < 0 || most > MOST_BYTES ? NULL : calloc(1, (size_t)most + 1);
	ssize_t got = 1;

	*size = 0;
	for (; bytes && got > 0; *size += got > 0 ? (uint32_t)got : 0)
		got = pread(fd, bytes + *size, (size_t)most - *size, *size);
	if (fd >= 0)
		close(fd);
	return bytes;
}

void mcr_bpf_types_find(const char *path, const char *const names[], uint32_t numbers[], uint32_t count)
{
	struct types types;
	uint32_t size;
	uint8_t *bytes = read_all(path, &size);

	memset(numbers, 0, count * sizeof(*numbers));
	if (bytes && begin(&types, bytes, size))
		walk(&types, names, numbers, count);
	free(bytes);
}
