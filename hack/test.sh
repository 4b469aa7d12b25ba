#!/usr/bin/env bash
# Run the tests. Without arguments: all of them, in parallel, with the coverage gate.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${VENV:-.venv}/bin/python

if [ $# -gt 0 ]; then
  exec "$python" -m pytest "$@"
fi
# tests/sdk imports kserve, whose protobuf symbols clash with tritonclient's: a process of its own.
"$python" -m pytest -q tests/sdk --cov --cov-report= --cov-fail-under=0
exec "$python" -m pytest -q -n "${WORKERS:-2}" --dist loadfile --ignore tests/sdk \
  --cov --cov-append --cov-report=term --durations=5
