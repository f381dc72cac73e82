#!/bin/sh
# The fast subset: lint, types, C warnings, unit, actor and kernel tests. Types and lint are checked beside the tests.
# MCR_SLOW=1: with the tests that are marked as slow.
set -eu
venv=$1
said=$(mktemp -d)
trap 'rm -r "$said"' EXIT

# C is looked at again if it has changed, or what looks at it.
looked_at=$venv/.c-looked-at
c_has_changed() {
	[ -n "${MCR_RUN_ALL:-}" ] || ! tools/c_state.sh "$venv" 2>/dev/null | cmp -s - "$looked_at"
}

check_c() {
	set -e
	tools/c_state.sh "$venv" >"$said/c" 2>/dev/null
	find mcr/native mcr/cli tests/native bench -name '*.[ch]' -exec "$venv/bin/clang-format" --dry-run --Werror {} +
	find mcr/native mcr/cli bench -name '*.c' ! -name '*.bpf.c' \
		-exec cc -std=gnu11 -D_GNU_SOURCE -Imcr/native -Wall -Wextra -Werror -fsyntax-only {} +
	"$venv/bin/python" tools/build_bpf.py --check
	mv "$said/c" "$looked_at"
}

# So are scripts, and words.
check_scripts() {
	if ! command -v shellcheck >/dev/null; then
		echo "shellcheck is not installed: shell scripts were not checked" >&2
		return
	fi
	set -- .ci/run tools/*.sh tests/packaging/*.sh packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm
	{
		shellcheck --version
		sha256sum "$@"
	} >"$said/scripts"
	if [ -n "${MCR_RUN_ALL:-}" ] || ! cmp -s "$said/scripts" "$venv/.scripts-looked-at"; then
		shellcheck "$@"
		mv "$said/scripts" "$venv/.scripts-looked-at"
	fi
}

lint() {
	set -e
	"$venv/bin/ruff" check --quiet .
	"$venv/bin/ruff" format --quiet --check --diff .
	tools/spelling.sh "$venv"
	check_scripts
	if c_has_changed; then check_c; fi
}

(lint) >"$said/lint" 2>&1 &
lint=$!
"$venv/bin/mypy" --no-error-summary >"$said/types" 2>&1 &
types=$!
failed=0
# Four: tests of tests/kernel and tests/actors wait for half of their time. Plugins by name, or pytest would compile
# all of hypothesis once more the first time.
"$venv/bin/pytest" -q --processes 4 -o console_output_style=classic \
	--disable-plugin-autoload -p trio -p hypothesispytest -m "${MCR_SLOW:+slow or }not slow" \
	tests/actors tests/kernel tests/unit || failed=1
wait $lint || failed=1
wait $types || failed=1
cat "$said/lint" "$said/types"
exit $failed
