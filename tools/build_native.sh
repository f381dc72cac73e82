#!/bin/sh
# Build what is written in C anew: mcr._native in place, and bin/mcrd.
set -eu
venv=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$venv/bin/python" setup.py -q build_ext --inplace build_scripts --build-dir "$venv/bin" >"$log" 2>&1 || {
	cat "$log" >&2
	echo "Error: the native code does not compile" >&2
	exit 1
}
