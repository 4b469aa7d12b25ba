#!/bin/sh
# One step of the Dockerfile. It lives here so that it can be read, linted and changed as a script.
set -eu
venv=/opt/realfake/venv
uv=/opt/tools/bin/uv
secrets=/run/secrets

if [ -f "$secrets/ca_bundle" ]; then
  export SSL_CERT_FILE="$secrets/ca_bundle" PIP_CERT="$secrets/ca_bundle"
fi
[ ! -f "$secrets/pip_conf" ] || export PIP_CONFIG_FILE="$secrets/pip_conf"
[ ! -f "$secrets/uv_toml" ] || export UV_CONFIG_FILE="$secrets/uv_toml"

case $1 in
  tools)
    python3 -m venv /opt/tools
    /opt/tools/bin/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt
    # A copy of this image's own Python, by link: the last stage starts from the same image.
    "$uv" venv --quiet --no-config --python "$(command -v python3)" "$venv"
    ;;
  cuda)
    "$uv" pip sync --quiet --python "$venv" --require-hashes requirements/runtime.txt
    ;;
  cpu)
    "$uv" pip sync --quiet --python "$venv" --require-hashes requirements/cpu.txt
    ;;
  application)
    "$uv" pip install --quiet --python "$venv" --no-config --offline --no-deps --no-build-isolation .
    # uv leaves its lock writable for everybody.
    rm -f "$venv/.lock"
    ;;
  *)
    echo "install.sh: no step named $1" >&2
    exit 2
    ;;
esac
