#!/bin/sh
# Rebuild mcr._native in place after its sources changed.
set -eu
venv=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$venv/bin/python" setup.py -q build_ext --inplace >"$log" 2>&1 || {
	cat "$log" >&2
	echo "Error: the native code does not compile" >&2
	exit 1
}
