#!/bin/sh
# Make the virtual environment; install what the machine lacks, or say which command does.
set -eu
python=$1 venv=$2

missing="" compiler=""
need() { missing="$missing $1"; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
	echo "Error: $python is not Python 3.11 or newer" >&2
	echo "hint: make PYTHON=/path/to/python3.11 ..." >&2
	exit 1
}
"$python" -c 'import ensurepip' 2>/dev/null || need python3-venv
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
	need python3-dev
command -v cc >/dev/null || need gcc
echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1 || need libc6-dev
[ -e /usr/include/liburing.h ] || need liburing-dev
command -v ip >/dev/null || [ -x /sbin/ip ] || need iproute2
command -v setpriv >/dev/null || need util-linux
command -v setcap >/dev/null || [ -x /sbin/setcap ] || need libcap2-bin
command -v groff >/dev/null || need groff-base

# For `make check`, `make deb`, and to test what that makes.
if [ "$(id -u)" = 0 ] && command -v dpkg >/dev/null; then
	[ -x /usr/bin/python3 ] || need python3
	[ -x /lib/systemd/systemd ] || need systemd
	command -v ps >/dev/null || need procps
	command -v shellcheck >/dev/null || need shellcheck
	# Newer distributions don't have it: tools/build_bpf.py says what is not checked then.
	command -v clang-14 >/dev/null || ! command -v apt-get >/dev/null || compiler=clang-14
fi

if [ -n "$missing$compiler" ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null; }
		echo "Installing system packages:$missing $compiler"
		# shellcheck disable=SC2086 # a word a package
		install $missing $compiler 2>/dev/null || {
			apt-get update -q >/dev/null
			install $missing $compiler 2>/dev/null || install $missing
		}
	else
		echo "Error: system packages are missing:$missing" >&2
		echo "hint: sudo apt-get install -y$missing" >&2
		exit 1
	fi
fi

echo "Setting up $venv (once)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check 'setuptools>=77' 'cffi>=1.17'
# C is compiled meanwhile, once: pip would do it in a directory of its own.
tools/build_native.sh "$venv" &
native=$!
# It is not left behind if pip fails or this is interrupted: it would go on writing while the next one starts.
trap 'wait $native' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
MCR_BUILT_APART=1 "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-build-isolation \
	--config-settings editable_mode=compat -e '.[dev]'
trap - EXIT INT TERM HUP
wait $native

# To check metrics and alert rules. Debian's package would start a server here, so this program alone is taken from it.
get_promtool() {
	[ -x /usr/bin/promtool ] || [ -x "$venv/bin/promtool" ] || {
		unpacked=$(mktemp -d)
		(
			cd "$unpacked"
			apt-get download prometheus || { apt-get update -q && apt-get download prometheus; }
			dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
		) >/dev/null 2>&1 && mv "$unpacked/usr/bin/promtool" "$venv/bin/"
		rm -r "$unpacked"
		[ -x "$venv/bin/promtool" ]
	}
}
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	get_promtool || echo "Debian's package prometheus could not be had: tests that need its promtool are skipped" >&2
fi
