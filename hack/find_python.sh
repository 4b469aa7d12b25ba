#!/usr/bin/env bash
# Print the first Python on this machine that the project supports (PYTHON=… chooses another).
set -euo pipefail

for python in ${PYTHON:-} python3.12 python3.11 python3.13 python3 python; do
  if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    "$python" -c 'import sys; print(sys.executable)'
    exit 0
  fi
done
echo "realfake needs Python 3.11, 3.12 or 3.13; install one, or name it: make setup PYTHON=/path/to/python3.12" >&2
exit 1
