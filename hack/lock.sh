#!/usr/bin/env bash
# Pin requirements/*.in with hashes into requirements/*.txt; with --check, say (offline) whether they are stale.
set -euo pipefail
cd "$(dirname "$0")/.."

# lock -> the .in files it is made from; dev is a superset, so one environment installs from one file.
declare -A inputs=(
  [requirements/bootstrap.txt]="requirements/bootstrap.in"
  [requirements/runtime.txt]="requirements/cpu.in requirements/runtime.in"
  [requirements/cpu.txt]="requirements/cpu.in"
  [requirements/dev.txt]="requirements/cpu.in requirements/runtime.in requirements/dev.in"
  # In environments of their own: their pins contradict those above.
  [requirements/checkov.txt]="requirements/checkov.in"
  [requirements/envoy.txt]="requirements/envoy.in"
)
# runtime.txt comes first: it decides the versions of the next two.
locks=(requirements/{bootstrap,runtime,cpu,dev,checkov,envoy}.txt)
peers=hack/bench/peers
for directory in "$peers"/*/; do
  [ -f "$directory/requirements.in" ] || continue
  lock=${directory}requirements.txt
  inputs[$lock]="${directory}requirements.in $peers/model.in"
  locks+=("$lock")
done

header() { # header <lock>
  # shellcheck disable=SC2086
  printf '# Made by `make lock` from %s; do not edit.\n# inputs-sha256: %s\n' \
    "${inputs[$1]// / and }" "$(cat ${inputs[$1]} | sha256sum | cut -d' ' -f1)"
}

# What a benchmark must not differ in: peers decode and compute with the predictor's own versions.
shared_pins() {
  grep -v '^#' "$peers/model.in" | while read -r name; do
    grep -E "^$name==" requirements/runtime.txt | sed 's/ *\\$//'
  done
}

if [ "${1:-}" = --check ]; then
  for file in "${locks[@]}"; do
    if [ "$(head -n 2 "$file")" != "$(header "$file")" ]; then
      echo "$file is older than ${inputs[$file]}; run: make lock" >&2
      exit 1
    fi
    if grep -nE '^(-|--)[a-z]|://|^[^#]* @ ' "$file" >&2; then
      echo "$file names an index or an address; only names, versions and hashes belong in it" >&2
      exit 1
    fi
  done
  echo "locks match their .in files"
  exit 0
fi

# A developer's own index or wheel folder must not shape the pins.
unset PIP_FIND_LINKS PIP_INDEX_URL PIP_EXTRA_INDEX_URL UV_FIND_LINKS UV_INDEX UV_DEFAULT_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL
uv=${UV:-uv}
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
for file in "${locks[@]}"; do
  constraint=()
  case $file in
    requirements/cpu.txt | requirements/dev.txt) constraint=(--constraint requirements/runtime.txt) ;;
    "$peers"/*)
      shared_pins >"$pins"
      constraint=(--constraint "$pins")
      ;;
  esac
  # The present pins are uv's preferences: only what the .in files ask for changes. `--upgrade` moves them all.
  # shellcheck disable=SC2086
  "$uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate "${constraint[@]}" "$@" --output-file "$file" ${inputs[$file]}
  { header "$file"; cat "$file"; } >"$file.new"
  mv "$file.new" "$file"
  echo "wrote $file"
done
