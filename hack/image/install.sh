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

# What the lock has only because PyTorch's builds for CUDA ask for it, and torch itself.
cuda_only='torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+'

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
    if [ ! -f requirements/torch-cpu.txt ]; then
      echo 'requirements/torch-cpu.txt is missing: PyTorch serves its CPU builds from an index of' \
        'its own; run `make lock-cpu` where that can be reached, or build VARIANT=cuda' >&2
      exit 1
    fi
    # A requirement is a line and the indented hashes below it; both are left out together.
    awk -v skip="^($cuda_only)==" '/^[^ #]/ { keep = $0 !~ skip } keep' \
      requirements/runtime.txt >requirements/without-torch.txt
    "$uv" pip sync --quiet --python "$venv" --require-hashes requirements/without-torch.txt
    "$uv" pip install --quiet --python "$venv" --no-deps --torch-backend cpu \
      --require-hashes -r requirements/torch-cpu.txt
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
