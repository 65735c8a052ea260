# `make help` lists the targets. Caches are under $XDG_CACHE_HOME/qwen-vllm (~/.cache/qwen-vllm).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PORT ?= 8000
MINUTES ?= 30
IDLE_MINUTES ?= 60
MODEL ?= builtin:news-classifier
CASES ?= 10000
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/qwen-vllm
VENV := $(CACHE)/venv/bin
TOOL := $(PYTHON) -m tests.cluster
# Without cached bytecode, vLLM starts half a minute slower.
RUN := env -u PYTHONDONTWRITEBYTECODE PYTHONPATH=server/src:operator/src:. PATH="$(CACHE)/bin:$(VENV):$$PATH"
export CLUSTER REGISTRY

.PHONY: help
help: ## list the targets
	@echo "make TARGET [CLUSTER=kind|local|current] [REGISTRY=...] [PORT=8000]"
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## start a cluster, install the operator, serve a model and ask it two questions
	@$(TOOL) demo

.PHONY: serve
serve: venv ## run only the server, in the foreground: make serve PORT=8000 ARGS="--task=embed"
	@$(TOOL) port-free $(PORT)
	@echo "http://localhost:$(PORT)/ (ready after about a minute; Ctrl-C stops it)"
	@exec $(RUN) $(VENV)/python -m qwen_server --model "$(MODEL)" --port $(PORT) --device auto --enforce-eager --log-format text $(ARGS)

.PHONY: test
test: deps ## run all tests: unit, integration, end to end
	@$(RUN) $(VENV)/python -m tests.cluster test unit integration e2e

.PHONY: test-unit
test-unit: venv ## run the tests that need neither a cluster nor vLLM (seconds)
	@$(RUN) $(VENV)/python -m tests.cluster test unit

.PHONY: test-integration
test-integration: deps ## run the tests against a real API server and a real vLLM; PATCHES=off: without patches
	@QWEN_TEST_PATCHES=$(PATCHES) $(RUN) $(VENV)/python -m tests.cluster test integration

.PHONY: test-e2e
test-e2e: $(if $(filter kind,$(CLUSTER)),venv,deps) ## run the tests on the local one-node cluster; CLUSTER=kind: those that leave its node alone
	@$(RUN) $(VENV)/python -m tests.cluster test e2e

.PHONY: test-e2e-full
test-e2e-full: deps ## run the scenarios on the local one-node cluster that take minutes each
	@$(RUN) $(VENV)/python -m tests.cluster test e2e-full

.PHONY: pictures
pictures: deps ## play an incident on the local cluster and draw it for docs/dashboards.md (15 minutes)
	@$(RUN) $(VENV)/python -m tests.e2e.incident_pictures

.PHONY: test-full
test-full: deps ## run what make test leaves out: images, clients, PATCHES=off, histories, fuzz, soak, scenarios
	@$(TOOL) clients
	@$(RUN) $(VENV)/python -m tests.cluster test-full 5 3000

.PHONY: fuzz
fuzz: venv ## send CASES=10000 or more generated requests to a real server and vLLM; SEED=N repeats a run
	@$(RUN) $(VENV)/python -m tests.fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED))

.PHONY: soak
soak: venv ## keep a real vLLM at full load, then idle; fail on any alert: make soak MINUTES=30 IDLE_MINUTES=60
	@SOAK_MINUTES=$(MINUTES) IDLE_MINUTES=$(IDLE_MINUTES) $(RUN) $(VENV)/python -m pytest -rP \
		tests/integration/test_vllm_alarms.py -k "full_load or quiet_time"

.PHONY: bench-server
bench-server: venv ## compare this server with vLLM's own two (hours): make bench-server ARGS="--only startup --runs 1"
	@$(RUN) $(VENV)/python -m benchmarks $(ARGS)

.PHONY: bench-operator
bench-operator: deps ## compare this operator with production-stack's (12 minutes): make bench-operator ARGS="--services 30"
	@$(RUN) $(VENV)/python -m benchmarks.operators $(ARGS)

.PHONY: vllm-contract
vllm-contract: venv ## what a vLLM release changes of what the server relies on: make vllm-contract VERSION=0.33.0
	@$(RUN) $(VENV)/python -m tests.contract $(VERSION) $(ARGS)

.PHONY: lint
lint: venv ## check with ruff and mypy, the import contracts, the chart, the workflows and the generated files
	@$(RUN) $(VENV)/python -m tests.cluster lint

.PHONY: format
format: venv ## format with ruff and fix what it can
	@$(VENV)/ruff format -q .
	@$(VENV)/ruff check -q --fix .

.PHONY: manifests
manifests: venv ## generate the CRD, its reference, docs/openapi.json, the table of models, the chart's copies and install.yaml
	@$(RUN) $(VENV)/python operator/tools/generate_crd.py
	@$(RUN) $(VENV)/python -m charts.generate
	@$(RUN) $(VENV)/python server/tools/generate_openapi.py
	@$(RUN) $(VENV)/python server/tools/model_sizes.py

.PHONY: deps
deps: ## install and build everything that the tests and the cluster need
	@$(TOOL) deps

.PHONY: venv
venv:
	@$(TOOL) venv

.PHONY: images
images: ## build both images and make them available to CLUSTER
	@$(TOOL) images

.PHONY: sbom
sbom: venv ## write the SBOM of the Python packages of each image into dist/sbom
	@$(RUN) $(VENV)/python -m tests.cluster sbom

.PHONY: cluster-up
cluster-up: ## start the cluster (kubeconfig: .cluster/kubeconfig)
	@$(TOOL) up

.PHONY: cluster-down
cluster-down: ## stop the cluster and all of its processes
	@$(TOOL) down

.PHONY: cluster-status
cluster-status: ## show which parts of the local cluster run
	@$(TOOL) status

.PHONY: requirements
requirements: venv ## pin requirements/*.txt again from requirements/*.in
	@$(TOOL) requirements

.PHONY: clean
clean: cluster-down ## remove generated files from this folder; keep the caches
	@rm -rf .cluster .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

.PHONY: clean-cache
clean-cache: clean ## remove the caches too; the next run builds everything again
	@$(TOOL) clean-cache
