#!/usr/bin/env bash
# Pin requirements/*.in with hashes into requirements/*.txt; with --check, say (offline) whether they are stale.
set -euo pipefail
cd "$(dirname "$0")/.."

# lock -> the .in files it is made from; dev is a superset, so one environment installs from one file.
declare -A inputs=(
  [bootstrap]="requirements/bootstrap.in"
  [runtime]="requirements/runtime.in"
  [dev]="requirements/runtime.in requirements/dev.in"
  # In an environment of its own: its pins contradict those above.
  [checkov]="requirements/checkov.in"
)

header() { # header <lock>
  # shellcheck disable=SC2086
  printf '# Made by `make lock` from %s; do not edit.\n# inputs-sha256: %s\n' \
    "${inputs[$1]// / and }" "$(cat ${inputs[$1]} | sha256sum | cut -d' ' -f1)"
}

if [ "${1:-}" = --check ]; then
  for lock in bootstrap runtime dev checkov; do
    file=requirements/$lock.txt
    if [ "$(head -n 2 "$file")" != "$(header "$lock")" ]; then
      echo "$file is older than ${inputs[$lock]}; run: make lock" >&2
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
for lock in bootstrap runtime dev checkov; do
  file=requirements/$lock.txt
  constraint=()
  [ "$lock" != dev ] || constraint=(--constraint requirements/runtime.txt)
  # The present pins are uv's preferences: only what the .in files ask for changes. `--upgrade` moves them all.
  # shellcheck disable=SC2086
  "$uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate "${constraint[@]}" "$@" --output-file "$file" ${inputs[$lock]}
  { header "$lock"; cat "$file"; } >"$file.new"
  mv "$file.new" "$file"
  echo "wrote $file"
done
