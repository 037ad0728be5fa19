#!/bin/sh
# The tests of Ray's launcher, which needs older versions than constraints.txt has: in an environment of its
# own on top of .venv, removed again.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
.venv/bin/python -m venv "$folder/venv"
site=$("$folder/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/below.pth"
echo "$PWD" >> "$site/below.pth"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check hydra-ray-launcher 'joblib<1.6'
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -m pytest -q -p no:cacheprovider -m slow tests/test_launchers.py -k cluster "$@"
