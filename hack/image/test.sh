#!/usr/bin/env bash
# Build the image with and without the debug bundle, and try both as a restricted pod would run them.
# Takes build.sh's variables, and RUN_ARGS for options that podman or docker needs on this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."

without_weights=${IMAGE:-realfake:under-test}
debug=$without_weights-debug
IMAGE=$without_weights TARGET=runtime hack/image/build.sh
IMAGE=$debug TARGET=debug hack/image/build.sh
IMAGE=$debug IMAGE_WITHOUT_WEIGHTS=$without_weights exec "${VENV:-.venv}/bin/python" -m pytest tests/image "$@"
