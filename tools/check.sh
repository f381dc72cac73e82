#!/bin/sh
# The fast subset: lint, types, C warnings, unit and actor tests.
set -eu
venv=$1
"$venv/bin/ruff" check --quiet .
"$venv/bin/ruff" format --quiet --check --diff .
"$venv/bin/codespell"
if command -v shellcheck >/dev/null; then
	shellcheck .ci/run tools/*.sh tests/packaging/*.sh packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm
else
	echo "shellcheck is not installed: shell scripts were not checked" >&2
fi
"$venv/bin/mypy" --no-error-summary
"$venv/bin/clang-format" --dry-run --Werror mcr/native/*.[ch] mcr/cli/*.c tests/native/*.[ch] bench/*.[ch]
for source in mcr/native/*.c mcr/cli/*.c bench/*.c; do
	cc -std=gnu11 -O2 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only "$source"
done
"$venv/bin/pytest" -q tests/unit tests/actors
