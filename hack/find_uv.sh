#!/usr/bin/env bash
# Print a working uv: the one on PATH, else one installed beside the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

if uv --version >/dev/null 2>&1; then
  command -v uv
  exit 0
fi
bootstrap=$venv/bootstrap
if ! "$bootstrap/bin/uv" --version >/dev/null 2>&1; then
  python=$(hack/find_python.sh)
  "$python" -m venv --clear "$bootstrap" >&2 || {
    echo "python cannot make virtual environments here; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
  "$bootstrap/bin/python" -m pip install --quiet --disable-pip-version-check \
    --require-hashes -r requirements/bootstrap.txt >&2
fi
realpath "$bootstrap/bin/uv"
