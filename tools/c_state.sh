#!/bin/sh
# Print what tells whether C is as it was, and what looks at it: by content, as a file that was put back may be older.
set -eu
venv=$1
cc --version
clang-14 --version || echo none # newer distributions don't have it
ls -d "$venv"/lib/python*/site-packages/clang_format-*.dist-info
sha256sum tools/check.sh tools/c_state.sh tools/build_bpf.py .clang-format pyproject.toml
find mcr/native mcr/cli tests/native bench -name '*.[ch]' -exec sha256sum {} + | sort -k 2
