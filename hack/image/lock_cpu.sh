#!/usr/bin/env bash
# Pin PyTorch's CPU builds, at the lock's versions and with hashes, into requirements/torch-cpu.txt.
# PyTorch serves them from an index of its own, which uv knows: no address is written here or there.
set -euo pipefail
cd "$(dirname "$0")/../.."

file=requirements/torch-cpu.txt
uv=${UV:-uv}
pins=$(grep -oE '^(torch|torchvision)==[^ ;]+' requirements/runtime.txt)
{
  echo '# Made by `make lock-cpu`; do not edit.'
  # The rest of what they need is in runtime.txt already.
  "$uv" pip compile --quiet --no-deps --universal --python-version 3.11 --torch-backend cpu \
    --generate-hashes --no-header --no-annotate --no-emit-index-url - <<<"$pins"
} >"$file.new" || {
  rm -f "$file.new"
  echo "$file was not changed: PyTorch's index of CPU builds cannot be read from here" >&2
  exit 1
}
mv "$file.new" "$file"
echo "wrote $file"
