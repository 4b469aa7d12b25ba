# Built by `make image`; docs/image.md explains every argument.
#
# BASE: any glibc image with Python 3.11 to 3.13 and its venv module. `make image` passes name@digest.
ARG BASE=docker.io/library/python:3.12-slim-bookworm
# cuda: torch as the lock has it, with the CUDA libraries (it runs on a CPU too).
# cpu: ONNX Runtime without torch, for bundles that have their graph.
ARG VARIANT=cuda

FROM ${BASE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_PROGRESS=1
WORKDIR /build
COPY requirements/bootstrap.txt requirements/
COPY hack/image/install.sh hack/image/
# Each install step may be given the builder's own CA bundle and client configuration; none stays in a layer.
RUN --mount=type=secret,id=ca_bundle --mount=type=secret,id=pip_conf \
    sh hack/image/install.sh tools

FROM tools AS application
ARG VARIANT
COPY requirements/runtime.txt requirements/cpu.txt requirements/
RUN --mount=type=secret,id=ca_bundle --mount=type=secret,id=uv_toml \
    --mount=type=cache,target=/root/.cache/uv \
    sh hack/image/install.sh "$VARIANT"
COPY pyproject.toml README.md LICENSE ./
COPY requirements/cpu.in requirements/runtime.in requirements/
COPY predictor predictor
RUN --mount=type=cache,target=/root/.cache/uv \
    sh hack/image/install.sh application

FROM ${BASE} AS image
COPY --from=application /opt/realfake /opt/realfake
COPY LICENSE /opt/realfake/
# Everything that a library may want to write goes below TMPDIR, the one directory a pod must make writable;
# with a random uid there is no home directory and no user name to derive one from.
ENV PATH=/opt/realfake/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/tmp HOME=/tmp \
    HF_HOME=/tmp/huggingface TORCH_HOME=/tmp/torch \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor TRITON_CACHE_DIR=/tmp/triton
WORKDIR /opt/realfake
USER 65532:65532
EXPOSE 8080 8081 8082
ENTRYPOINT ["python", "-m", "predictor", "serve"]
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG BASE
ARG BASE_DIGEST=unknown
LABEL org.opencontainers.image.title="realfake" \
      org.opencontainers.image.description="A KServe predictor that tells real photographs from fake ones with a timm classifier." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"

# With the debug bundle where the predictor looks for one: for trials and tests, never for production.
FROM image AS debug
COPY checkpoints/debug /mnt/models

# Without weights: the last stage is what is built when no target is named.
FROM image AS runtime
