#!/usr/bin/env bash
# Build a Kubernetes API server that serves custom resources, for tests/rollout: no cluster and no nodes, but the
# real storage, conflicts, validation and status. Needs Go; etcd comes from the distribution.
set -euo pipefail
cd "$(dirname "$0")/.."

export GOBIN=$PWD/.run/bin
version=v0.33.3
if [ "$(cat "$GOBIN/version" 2>/dev/null)" = "$version" ] && [ -x "$GOBIN/apiextensions-apiserver" ]; then
  exit 0
fi
command -v go >/dev/null || { echo "go is not on PATH; on Debian: apt-get install golang" >&2; exit 1; }
echo "building apiextensions-apiserver $version (minutes on a first run)" >&2
go install "k8s.io/apiextensions-apiserver@$version"
echo "$version" >"$GOBIN/version"
