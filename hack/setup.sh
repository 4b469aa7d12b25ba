#!/usr/bin/env bash
# Make .venv from the pinned, hashed requirements. Run through `make setup`, which skips it when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

python=$(hack/find_python.sh)
uv=$(hack/find_uv.sh)
if ! "$venv/bin/python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
  # --allow-existing: find_uv.sh may have put its bootstrap in here already.
  "$uv" venv --quiet --no-config --allow-existing --python "$python" "$venv"
fi
echo "installing the pinned dependencies into $venv (torch is large: minutes on a first run)"
"$uv" pip sync --quiet --python "$venv/bin/python" --no-config --require-hashes requirements/dev.txt
"$uv" pip install --quiet --python "$venv/bin/python" --no-config --no-deps --no-build-isolation --editable .
[ -x "$venv/checkov/bin/python" ] || "$uv" venv --quiet --no-config --python "$python" "$venv/checkov"
"$uv" pip sync --quiet --python "$venv/checkov/bin/python" --no-config --require-hashes requirements/checkov.txt
touch "$venv/.ready"
