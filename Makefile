# One verb per target; what each does is in hack/. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
export VENV

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt requirements/checkov.txt pyproject.toml hack/setup.sh
	@hack/setup.sh

.PHONY: setup
setup: $(READY) ## Create .venv with every pinned dependency (nothing to do when it is up to date)

.PHONY: run
run: $(READY) ## Serve checkpoints/debug on this machine and print a curl to paste (HTTP_PORT=8080 GRPC_PORT=8081 METRICS_PORT=8082)
	@$(PY) hack/run.py

.PHONY: test
test: $(READY) ## Run the tests in parallel, with coverage (ARGS="-k name" narrows)
	@hack/test.sh $(ARGS)

.PHONY: overload
overload: $(READY) ## Drive a server to 10 times its capacity and print what becomes of it (ARGS="--seconds 20")
	@$(PY) -m hack.load.overload $(ARGS)

.PHONY: drill
drill: $(READY) ## Break servers of your own in three ways, and watch alerts, runbooks and repairs (needs prometheus)
	@$(PY) -m hack.drill $(ARGS)

.PHONY: load-test
load-test: $(READY) ## Load a deployment of your own until its figures settle (ARGS="--url https://… --key-file …")
	@$(PY) -m hack.load_test $(ARGS)

.PHONY: bench
bench: $(READY) ## Compare with other servers and write docs/benchmarks.md: over an hour on a quiet machine (ARGS="--rounds 1 --only realfake,litserve")
	@$(PY) -m hack.bench $(ARGS)

.PHONY: gpu-test
gpu-test: $(READY) ## Run the tests that need a GPU (skipped where none is)
	@$(PY) -m pytest tests/unit -q -m gpu -n 0 $(ARGS)

.PHONY: gpu-bench
gpu-bench: $(READY) ## Print what a GPU reaches alone and behind the server (ARGS="--networks resnet50"; --device cpu tries it out)
	@$(PY) -m hack.bench.gpu $(ARGS)

.PHONY: lint
lint: $(READY) ## ruff, mypy --strict and the import rules
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

.PHONY: format
format: $(READY) ## Format the code and apply safe fixes
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

.PHONY: generate
generate: $(READY) ## Write what is generated: docs/settings.md, docs/metrics.md, the chart's schema and README, manifests/, dashboards
	@$(PY) hack/generate_settings_docs.py
	@$(PY) -m hack.generate_metrics_docs
	@$(PY) -m hack.generate_dashboards
	@$(PY) -m hack.generate_chart

.PHONY: verify
verify: $(READY) ## Fail when something generated or pinned is stale
	@$(PY) hack/generate_settings_docs.py --check
	@$(PY) -m hack.generate_metrics_docs --check
	@$(PY) -m hack.generate_dashboards --check
	@$(PY) -m hack.generate_chart --check
	@$(PY) -m hack.bench --check
	@hack/lock.sh --check

.PHONY: lock
lock: $(READY) ## Pin requirements/*.in again (ARGS=--upgrade moves every pin)
	@UV="$$(VENV=$(VENV) hack/find_uv.sh)" hack/lock.sh $(ARGS)

.PHONY: image
image: ## Build the container image (VARIANT=cuda|cpu TARGET=runtime|debug BASE=name@sha256:…)
	@hack/image/build.sh

.PHONY: image-test
image-test: $(READY) ## Build the image, run it read-only under a random uid, and post pictures to it
	@hack/image/test.sh -q $(ARGS)

.PHONY: compose
compose: $(READY) ## Serve with Prometheus and Grafana in containers (ARGS="up --detach"; docker compose or podman-compose)
	@$(PY) hack/compose.py $(ARGS)

.PHONY: sbom
sbom: $(READY) ## Write dist/realfake.cdx.json, the CycloneDX list of what the image installs (VARIANT=cpu: realfake-cpu)
	@$(PY) hack/sbom.py --variant $(or $(VARIANT),cuda) dist/realfake$(if $(filter cpu,$(VARIANT)),-cpu).cdx.json

.PHONY: rollout
rollout: $(READY) ## Watch, judge, promote or abort a canary (ARGS="watch --namespace …")
	@$(PY) -m hack.rollout $(ARGS)

.PHONY: kube-api
kube-api: ## Build the API server that tests/rollout needs (Go; minutes on a first run)
	@hack/kube_api.sh

.PHONY: cluster-test
cluster-test: $(READY) ## Run the end-to-end tests against the cluster of KUBECONFIG (docs/cluster-tests.md)
	@$(PY) -m pytest tests/cluster -q -m cluster $(ARGS)

.PHONY: clean
clean: ## Remove the environment and everything that was made by these targets
	rm -rf $(VENV) .run .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
