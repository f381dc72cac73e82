#!/bin/sh
# Build a wheel that needs neither a compiler nor liburing where it is installed: dist/mcr-<version>-….whl
set -eu
venv=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A copy, so that nothing from earlier builds gets in.
mkdir "$work/source" "$work/static"
tar -c --exclude=__pycache__ --exclude='*.so' --exclude='_native.c' --exclude='*.o' \
	setup.py pyproject.toml MANIFEST.in README.md LICENSE packaging/licenses mcr | tar -x -C "$work/source"

# The first directory where the linker finds a liburing decides, and in this one there is only the static one.
static=$(cc -print-file-name=liburing.a)
[ -e "$static" ] || {
	echo "Error: there is no liburing.a, which wheels are linked with" >&2
	echo "hint: sudo apt-get install -y liburing-dev" >&2
	exit 1
}
ln -s "$static" "$work/static/"
# `make setup` has compiled the same sources; only what they are linked with differs. Whoever names other options here
# has them compiled anew.
compiled=$PWD
[ -z "${CC-}${CFLAGS-}${CPPFLAGS-}" ] || compiled=""
(
	cd "$work/source"
	MCR_COMPILED=$compiled LDFLAGS="-L$work/static" "$venv/bin/python" setup.py -q bdist_wheel --dist-dir "$work"
) >"$work/log" 2>&1 || {
	cat "$work/log" >&2
	exit 1
}

# Tells in the file name how old a C library may be.
mkdir -p dist
rm -f dist/*.whl
PATH="$venv/bin:$PATH" "$venv/bin/auditwheel" -v repair --strip -w dist "$work"/*.whl >"$work/log" 2>&1 || {
	cat "$work/log" >&2
	exit 1
}
ls dist/*.whl
