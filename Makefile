# `make help` lists the targets. Caches lie under $XDG_CACHE_HOME/qwen-vllm (~/.cache/qwen-vllm).
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
# vLLM starts half a minute slower when bytecode may not be kept.
RUN := env -u PYTHONDONTWRITEBYTECODE PYTHONPATH=server/src:operator/src:. PATH="$(CACHE)/bin:$(VENV):$$PATH"
export CLUSTER REGISTRY

.PHONY: help
help: ## list the targets
	@echo "make TARGET [CLUSTER=kind|local|current] [REGISTRY=...] [PORT=8000]"
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the main job: cluster, images, operator, a served model, two answers
	@$(TOOL) demo

.PHONY: serve
serve: venv ## the server alone, in the foreground: make serve PORT=8000
	@$(TOOL) port-free $(PORT)
	@echo "http://localhost:$(PORT)/ (ready after about a minute; Ctrl-C stops it)"
	@exec $(RUN) $(VENV)/python -m qwen_server --model "$(MODEL)" --port $(PORT) --device auto --enforce-eager --log-format text

.PHONY: test
test: deps ## all tests: unit, integration, end to end
	@$(RUN) $(VENV)/python -m tests.cluster test unit integration e2e

.PHONY: test-unit
test-unit: venv ## tests that need neither a cluster nor vLLM: seconds
	@$(RUN) $(VENV)/python -m tests.cluster test unit

.PHONY: test-integration
test-integration: deps ## tests against a real API server and a real vLLM
	@$(RUN) $(VENV)/python -m tests.cluster test integration

.PHONY: test-e2e
test-e2e: deps ## tests on the local one-node cluster
	@$(RUN) $(VENV)/python -m tests.cluster test e2e

.PHONY: fuzz
fuzz: venv ## at least CASES=10000 generated requests against a real server and vLLM; SEED=N repeats a run
	@$(RUN) $(VENV)/python -m tests.fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED))

.PHONY: soak
soak: venv ## a real vLLM at full load, then idle, without an alarm: make soak MINUTES=30 IDLE_MINUTES=60
	@SOAK_MINUTES=$(MINUTES) IDLE_MINUTES=$(IDLE_MINUTES) $(RUN) $(VENV)/python -m pytest -rP \
		tests/integration/test_vllm_alarms.py -k "full_load or quiet_time"

.PHONY: bench-server
bench-server: venv ## this server and vLLM's own side by side, about half an hour: make bench-server ARGS="--only startup --runs 1"
	@$(RUN) $(VENV)/python -m benchmarks $(ARGS)

.PHONY: vllm-contract
vllm-contract: venv ## what a vLLM release changes of what the server relies on: make vllm-contract VERSION=0.33.0
	@$(RUN) $(VENV)/python -m tests.contract $(VERSION) $(ARGS)

.PHONY: lint
lint: venv ## ruff, mypy, import contracts, the chart, generated files
	@$(RUN) $(VENV)/python -m tests.cluster lint

.PHONY: format
format: venv ## let ruff format and mend what it can
	@$(VENV)/ruff format -q .
	@$(VENV)/ruff check -q --fix .

.PHONY: manifests
manifests: venv ## write the CRD, docs/reference.md, docs/openapi.json, the chart's copies and manifests/install.yaml
	@$(RUN) $(VENV)/python -m qwen_operator.crd
	@$(RUN) $(VENV)/python -m charts.generate
	@$(RUN) $(VENV)/python -m qwen_server.api.openapi

.PHONY: deps
deps: ## install and build everything that tests and cluster need
	@$(TOOL) deps

.PHONY: venv
venv:
	@$(TOOL) venv

.PHONY: images
images: ## build both images and put them where CLUSTER finds them
	@$(TOOL) images

.PHONY: cluster-up
cluster-up: ## start the cluster; kubeconfig: .cluster/kubeconfig
	@$(TOOL) up

.PHONY: cluster-down
cluster-down: ## stop it and leave nothing running
	@$(TOOL) down

.PHONY: cluster-status
cluster-status: ## which parts of the local cluster run
	@$(TOOL) status

.PHONY: requirements
requirements: venv ## pin requirements/*.txt anew from requirements/*.in
	@$(TOOL) requirements

.PHONY: clean
clean: cluster-down ## remove what lies in this folder; the caches stay
	@rm -rf .cluster .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

.PHONY: clean-cache
clean-cache: clean ## remove the caches too: the next run builds everything anew
	@$(TOOL) clean-cache
