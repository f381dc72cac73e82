#!/bin/sh
# Look for misspelt words in what has changed since none was found, in all if codespell or what it is told has changed.
set -eu
venv=$1
right=$venv/.spelled
files=$(mktemp)
trap 'rm "$files"' EXIT

# As codespell finds them; each with its content and its reader.
reader=$(cat pyproject.toml tools/spelling.sh "$venv"/lib/python*/site-packages/codespell-*.dist-info/RECORD | sha256sum)
find . \( -name '.?*' -o -name __pycache__ -o -name '*.egg-info' -o -path ./build -o -path ./dist \) -prune \
	-o -type f ! -name '*.so' ! -name '*.o' -exec sha256sum {} + | sed "s/^/${reader%% *} /" | LC_ALL=C sort >"$files"
{ [ -z "${MCR_RUN_ALL:-}" ] && [ -e "$right" ]; } || : >"$right"
LC_ALL=C comm -13 "$right" "$files" | sed 's/^[^.]* \.//; s/^/./' | xargs -r -d '\n' "$venv/bin/codespell"
mv "$files" "$right"
trap - EXIT
