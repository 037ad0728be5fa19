#!/bin/sh
# The tests with the oldest and with the newest versions that pyproject.toml allows.
#   tests/oldest.sh [oldest|newest] [pytest's arguments]      default: both, the whole default suite
# Each environment takes 7 GB in a temporary folder (TMPDIR) and is removed again. PYTHON_OLDEST and
# PYTHON_NEWEST name the interpreters; without them it is python3.10 and python3.13, or else python3.
set -eu
cd "$(dirname "$0")/.."

case "${1:-}" in oldest | newest) ends=$1; shift ;; *) ends="oldest newest" ;; esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/uv"
"$folder/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
export UV_CACHE_DIR="$folder/cache" UV_NATIVE_TLS=1 UV_HTTP_TIMEOUT=300 OMP_NUM_THREADS=1

# The first of these interpreters that runs.
first() {
    for name in "$@"; do
        if "$name" --version >/dev/null 2>&1; then echo "$name"; return; fi
    done
}

failed=
for end in $ends; do
    if [ "$end" = oldest ]; then
        python=$(first "${PYTHON_OLDEST:-python3.10}" python3) resolution=lowest-direct
    else
        python=$(first "${PYTHON_NEWEST:-python3.13}" python3) resolution=highest
    fi
    "$python" -m venv "$folder/$end"
    "$folder/uv/bin/uv" pip install --quiet --compile-bytecode --python "$folder/$end/bin/python" \
        --resolution "$resolution" -e '.[test,lite,search,launchers,mistakes,export,parquet,transformer]'
    echo "== $end: $("$folder/$end/bin/python" --version)"
    "$folder/uv/bin/uv" pip list --quiet --python "$folder/$end/bin/python" |
        grep -E '^(torch|torchvision|pytorch-lightning|hydra-core|torchmetrics|wandb|numpy|pydantic) '
    "$folder/$end/bin/python" -m pytest -q -p no:cacheprovider "$@" || failed="$failed $end"
    rm -rf "$folder/$end"
done
[ -z "$failed" ] || { echo "failed with the versions that are$failed"; exit 1; }
