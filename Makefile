# make up      a model that answers, from nothing        make test    everything that must hold
# make down    stop it                                   make bench   ratios, measured in one run
# make images  every image, proven; image-NAME-VARIANT: one
PYTHON ?= python3
VENV ?= .venv
PROFILE ?=
BIN := $(VENV)/bin

.PHONY: up down check test lint types unit e2e long bench bench-images bench-pull bench-sizing bench-gateway bench-real bench-faults docs golden picture
.PHONY: screenshots vendor compat-data images lock clean

up: $(VENV)/.installed
	$(BIN)/deployer up $(PROFILE)

down: $(VENV)/.installed
	$(BIN)/deployer down --all

check: $(VENV)/.installed
	$(BIN)/deployer check $(PROFILE)

test: lint types unit e2e

lint: $(VENV)/.developer
	$(BIN)/ruff check .
	$(BIN)/hadolint -c images/.hadolint.yaml images/*/Dockerfile

types: $(VENV)/.developer
	$(BIN)/mypy

unit: $(VENV)/.developer
	$(BIN)/pytest --ignore=tests/e2e $(ARGS)

e2e: $(VENV)/.developer
	$(BIN)/pytest tests/e2e -m "not long" $(ARGS)

# What is too long for every change: llama.cpp compiled twice over.
long: $(VENV)/.developer
	$(BIN)/pytest tests/e2e -m long $(ARGS)

bench: $(VENV)/.developer
	$(BIN)/python benchmarks/run.py

# Sizes and build times of the images; hours with CUDA ones: ARGS="size transformers:cu130", "naive …" or "again".
bench-images: $(VENV)/.developer
	$(BIN)/python benchmarks/images.py $(or $(ARGS),again)

# Beside Hugging Face's client, 4 GB from a server of this machine: some minutes, 9 GB of disk. ARGS="--size 1"
bench-pull: $(VENV)/.developer
	$(BIN)/python benchmarks/pull.py $(ARGS)

# Memory and speed as told and as they are, beside other estimators; the table of docs/fit.md. ARGS="memory published"
bench-sizing: $(VENV)/.developer
	$(BIN)/python benchmarks/sizing.py $(ARGS)

# The gateway beside the bare engine and nginx, a minute; ARGS="--soak 10" is ten minutes of mixed load.
bench-gateway: $(VENV)/.developer
	$(BIN)/python benchmarks/gateway.py $(ARGS)

# The gateway before a real llama.cpp, and what a safety check adds: ARGS="--server …/llama-server --model FILE.gguf"
bench-real: $(VENV)/.developer
	$(BIN)/python benchmarks/real.py $(ARGS)

# What clients see of faults under load, ten minutes; as root, and with ARGS="--runtime docker".
bench-faults: $(VENV)/.developer
	$(BIN)/python benchmarks/faults.py $(ARGS)

# docs/checks.md, docs/check.schema.json and docs/failures.md, made again from the code.
docs: $(VENV)/.developer
	$(BIN)/python docs/checks.py docs
	$(BIN)/python docs/failures.py docs

# tests/golden/*.txt, the reports of all simulated hosts; review the difference before you commit it.
golden: $(VENV)/.developer
	$(BIN)/python -m tests.stage.golden

picture: $(VENV)/.developer
	$(BIN)/python docs/record.py docs/up.svg

# docs/chat-*.png and docs/status.png, of a deployment that is brought up for it, in Chromium.
screenshots: $(VENV)/.developer
	$(BIN)/python docs/screenshots.py $(ARGS)

# The libraries of the chat page, fetched again with npm as its lock.tsv says; WRITE=--write takes other versions over.
vendor: $(VENV)/.developer
	$(BIN)/python docs/vendor.py $(WRITE)

# What the tables of deployer/compat say of torch, against the wheels on the index; WRITE=--write takes it over.
compat-data: $(VENV)/.developer
	$(BIN)/python docs/refresh_compat.py $(WRITE)

# Every image, built and proven from inside; `make image-transformers-cu130` is one. ARGS="--push --registry HOST/PATH"
images: $(VENV)/.installed
	$(BIN)/deployer build --all $(ARGS)

image-%: $(VENV)/.installed
	$(BIN)/deployer build $(subst -,:,$*) $(ARGS)

# The locks of the images, made again, with what changed; review the difference before you commit it.
lock: $(VENV)/.installed
	$(BIN)/deployer build --lock $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is older than 3.10" >&2; echo "hint: make up PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "hint: this Python has no venv: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@
