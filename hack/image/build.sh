#!/usr/bin/env bash
# Build the image with docker or buildah, whichever is here. From the environment:
#   BASE     base image, with or without @sha256:…; a digest is looked up and recorded (default: the Dockerfile's)
#   VARIANT  cuda (default) or cpu (ONNX Runtime without torch)
#   TARGET   runtime (default: no weights) or debug (with checkpoints/debug)
#   IMAGE    name:tag (default: realfake:VERSION-VARIANT, and -debug)
#   ENGINE   docker or buildah
#   ENGINE_ARGS  more options for its build command, e.g. "--network host"
# Your own SSL_CERT_FILE, PIP_CONFIG_FILE and UV_CONFIG_FILE reach the install steps as secrets, never a layer.
set -euo pipefail
cd "$(dirname "$0")/../.."

base=${BASE:-$(sed -n 's/^ARG BASE=//p' Dockerfile)}
variant=${VARIANT:-cuda}
target=${TARGET:-runtime}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
suffix=
[ "$target" = runtime ] || suffix=-$target
image=${IMAGE:-realfake:$version-$variant$suffix}
engine=${ENGINE:-}

if [ -z "$engine" ]; then
  # A docker client without its daemon builds nothing.
  if docker info >/dev/null 2>&1; then
    engine=docker
  elif command -v buildah >/dev/null; then
    engine=buildah
  else
    echo "neither a running docker nor buildah is here; on Debian: apt-get install buildah" >&2
    exit 1
  fi
fi

# digest_of <image>: sha256:… as the registry or the local store knows it, or nothing.
digest_of() {
  case $engine in
    docker)
      docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >&2
      docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$1" | sed -n '1s/.*@//p'
      ;;
    buildah)
      buildah pull --quiet --policy missing "$1" >&2
      buildah inspect --type image --format '{{.FromImageDigest}}' "$1"
      ;;
  esac
}

case $base in
  *@sha256:*) digest=${base##*@} ;;
  *)
    digest=$(digest_of "$base")
    # The tag is dropped: some builders refuse a name that has both.
    [ -z "$digest" ] || base=$(sed -E 's#:[^:/]+$##' <<<"$base")@$digest
    ;;
esac
[ -n "$digest" ] || echo "warning: $base has no digest here, so this build cannot be repeated exactly" >&2

secrets=()
secret() { # secret <id> <file>
  [ -z "$2" ] || secrets+=(--secret "id=$1,src=$2")
}
secret ca_bundle "${SSL_CERT_FILE:-}"
secret pip_conf "${PIP_CONFIG_FILE:-}"
secret uv_toml "${UV_CONFIG_FILE:-}"

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || revision=$revision-dirty
created=$(git log -1 --format=%cd --date=format:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo 1970-01-01T00:00:00Z)

layers=()
[ "$engine" != buildah ] || layers=(--layers) # docker keeps layers unasked

echo "building $image on $base with $engine" >&2
# shellcheck disable=SC2086  # ENGINE_ARGS is a list of words
"$engine" build ${ENGINE_ARGS:-} "${layers[@]}" "${secrets[@]}" \
  --build-arg "BASE=$base" --build-arg "BASE_DIGEST=${digest:-unknown}" \
  --build-arg "VARIANT=$variant" --build-arg "VERSION=$version" \
  --build-arg "REVISION=$revision" --build-arg "CREATED=$created" \
  --target "$target" --tag "$image" --file Dockerfile .
