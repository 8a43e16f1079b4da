# `make demo` and `make test` need python3 with its venv module, a C compiler and make; pip brings the rest.
# The package is installed editable, so Python changes count at once and only the core is rebuilt.

PYTHON ?= python3
VENV ?= .venv
# More for pytest: make test ARGS="-k index -x"
ARGS ?=

BIN := $(VENV)/bin
CORE := setup.py pyproject.toml $(wildcard src/fastcas/_core.pyx src/fastcas/native/*)
# The build's own requirements, as pyproject.toml states them.
BUILD_REQUIRES := $(shell sed -n 's/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d ,)
# With CI=true nothing is installed but what the pins name, each with its hashes, and then nothing is looked for.
PINNED := $(filter true,$(CI))
INSTALL := $(BIN)/python -m pip install -q
INSTALL_PINS := $(INSTALL) --require-hashes --only-binary :all: -r
NOBODY := setpriv --reuid=65534 --regid=65534 --clear-groups

.PHONY: help demo build test test-all test-user test-arm test-neighbours test-objectstore gates soak bench bench-smoke bench-guard bench-guard-proof bench-peers bench-whole bench-objectstore lint pins annotate clean

help:
	@echo 'make demo         store and read back a real image, with rates'
	@echo 'make build        the virtual environment and the compiled core'
	@echo 'make test         the tests                    ARGS="-k NAME" for some of them'
	@echo 'make test-all     the tests on every Python 3.10 to 3.13 found'
	@echo 'make test-user    as root: the tests as a user without rights, in a copy'
	@echo 'make test-neighbours  as root: beside umoci, skopeo, crane and others, which it installs'
	@echo 'make test-objectstore  on a server of the S3 protocol, which it installs (Go), starts and stops'
	@echo 'make test-arm     the ARM kernel, emulated (gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user)'
	@echo 'make gates        crashes, kills and faults, short; ARGS="A C" for some (tests/gates)'
	@echo 'make soak         the same, long; its results go into docs/guarantees.md'
	@echo 'make bench        the benchmarks               bench-smoke: the same at small sizes'
	@echo 'make bench-guard  ratios to baselines of the same run, against their floors'
	@echo 'make bench-guard-proof  that each of them fails when the code is made slower'
	@echo 'make bench-peers  beside umoci, containerd, oras-go, ggcr (need Go), cacache (Rust), hashfs, dvc-data'
	@echo 'make bench-whole  whole images by whole programs, threads, a million blobs'
	@echo 'make bench-objectstore  on an S3 server (needs Go) beside boto3, s3fs and obstore; ARGS=--smoke'
	@echo 'make lint         ruff, mypy, stubtest, cython-lint, codespell'
	@echo 'make pins         the versions and hashes that CI installs, after pyproject.toml; ARGS=--upgrade'
	@echo 'make annotate     what Cython made of the core: build/annotate/_core.html'
	@echo 'make clean        remove what was built'

$(VENV)/.created:
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo 'no virtual environment could be made; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@command -v $(CC) >/dev/null || { rm -rf $(VENV); \
	  echo 'a C compiler is needed; on Debian: apt-get install gcc libc6-dev python3-dev' >&2; exit 1; }
	$(if $(PINNED),$(INSTALL_PINS) requirements/test.txt,$(INSTALL) $(BUILD_REQUIRES))
	@touch $@

$(VENV)/.built: $(VENV)/.created $(CORE)
	$(INSTALL) $(if $(PINNED),--no-index) --no-build-isolation -e .
	$(BIN)/python -m compileall -q src/fastcas
	@touch $@

# fastcas is there already, so these add only what the extra names.
$(VENV)/.extra-%: $(VENV)/.created pyproject.toml | $(VENV)/.built
	$(if $(PINNED),$(INSTALL_PINS) requirements/$(if $(wildcard requirements/$*.txt),$*,dev).txt)
	$(INSTALL) $(if $(PINNED),--no-index) 'fastcas[$*]'
	@touch $@

build: $(VENV)/.built

demo: build
	@$(BIN)/python demo/demo.py

test: build $(VENV)/.extra-test
	$(BIN)/python -m pytest $(ARGS)

# An interpreter counts when it runs: on PATH, or one of pyenv's.
test-all:
	@set -e; found=; \
	for v in 3.10 3.11 3.12 3.13; do \
	  for python in python$$v $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$v.*/bin/python$$v; do \
	    $$python -c 'import venv, ensurepip' 2>/dev/null || continue; \
	    echo "== Python $$v: $$python"; found="$$found $$v"; \
	    $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv/test-all/$$v; \
	    break; \
	  done; \
	done; \
	echo "passed on Python:$${found:- none found}"; test -n "$$found"

# A copy, because the checkout may lie where nobody can't go; for its Python the same holds.
test-user:
	@test "$$(id -u)" = 0 || { echo 'test-user is for root; as a user, make test does it' >&2; exit 2; }
	@set -e; copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	tar -c --exclude=./.git --exclude=./.venv --exclude=./build --exclude='*.so' . | tar -x -C "$$copy"; \
	chown -R 65534:65534 "$$copy"; \
	python=$$($(PYTHON) -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'); \
	$(NOBODY) sh -c '"$$0" -c ""' "$$python" 2>/dev/null || python=/usr/bin/python3; \
	cd "$$copy"; HOME="$$copy" $(NOBODY) $(MAKE) --no-print-directory test PYTHON="$$python"

# Their layouts and ours, on both sides: docs/neighbours.md. Needs Go and, for the first time, a network.
test-neighbours: build $(VENV)/.extra-test
	tests/neighbours/install.sh
	$(BIN)/python -m pytest tests/neighbours $(ARGS)

# The object-store engine on versitygw, and behind a proxy that does it harm. Needs Go and, for the first time, a network.
test-objectstore: build $(VENV)/.extra-test
	tests/objectstore/install.sh
	$(BIN)/python -m pytest tests/objectstore $(ARGS)

test-arm: build $(VENV)/.extra-test
	FASTCAS_TEST_CC=aarch64-linux-gnu-gcc FASTCAS_TEST_RUN='qemu-aarch64 -L /usr/aarch64-linux-gnu' \
	  $(BIN)/python -m pytest tests/test_lanes.py -k pieces_of_any_size $(ARGS)

GATES := cd tests && ../$(BIN)/python -m gates

gates: build $(VENV)/.extra-test
	$(GATES) --json ../build/gates.jsonl $(ARGS)

soak: build $(VENV)/.extra-soak
	$(GATES) --soak --json ../build/soak.jsonl $(ARGS)
	$(GATES).tables ../build/soak.jsonl ../docs/guarantees.md

bench: build $(VENV)/.extra-bench
	$(BIN)/python -m pytest bench --benchmark-only $(ARGS)

bench-smoke: build $(VENV)/.extra-bench
	FASTCAS_BENCH_SIZE=small $(BIN)/python -m pytest bench --benchmark-only $(ARGS)

bench-guard: build $(VENV)/.extra-bench
	$(BIN)/python bench/guard.py $(ARGS)

# That each guard fails when the code is made slower.
bench-guard-proof: build $(VENV)/.extra-bench
	$(BIN)/python bench/guard_slower.py

bench-peers: build $(VENV)/.extra-bench
	$(BIN)/python bench/run.py $(ARGS)

# Whole programs beside each other, threads, and layouts of up to a million blobs. What is left out says so.
bench-whole: build $(VENV)/.extra-bench
	bench/install.sh
	$(BIN)/python bench/images.py
	$(BIN)/python bench/threads.py
	$(BIN)/python bench/scale.py

# A server of its own on loopback. ARGS=--smoke: small, to see that everything runs.
bench-objectstore: build $(VENV)/.extra-bench-objectstore
	tests/objectstore/install.sh
	$(BIN)/python bench/object_store.py $(ARGS)

lint: build $(VENV)/.extra-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stubtest fastcas._core --mypy-config-file pyproject.toml
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src/fastcas  # runs pycodestyle by name
	$(BIN)/codespell

# uv, because one file is to serve every Python; pip alone installs from it.
UV_COMPILE = $(BIN)/uv pip compile -q --universal --python-version 3.10 --generate-hashes --no-annotate \
  --custom-compile-command 'make pins' $(ARGS)

pins: build
	$(INSTALL) uv
	$(UV_COMPILE) --extra dev -o requirements/dev.txt pyproject.toml
	$(UV_COMPILE) --extra test -c requirements/dev.txt -o requirements/test.txt pyproject.toml
	$(UV_COMPILE) --extra bench-objectstore -c requirements/test.txt -o requirements/bench-objectstore.txt pyproject.toml
	$(UV_COMPILE) -o requirements/neighbours.txt requirements/neighbours.in
	$(UV_COMPILE) -o requirements/go.txt requirements/go.in

annotate: build
	@mkdir -p build/annotate
	$(BIN)/cython -3 --annotate -I src/fastcas/native -o build/annotate/_core.c src/fastcas/_core.pyx

clean:
	rm -rf build dist bench/.work src/*.egg-info src/fastcas/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f .venv/.built .venv/test-all/*/.built
	find src tests bench demo -name __pycache__ -type d -prune -exec rm -rf {} +
