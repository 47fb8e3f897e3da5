# One environment in $(VENV), made once and reused; `make help` lists what there is.

VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null)
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)
CARGO_TEST := $(if $(NEXTEST),cargo nextest run,cargo test)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
RUST_SOURCES := Cargo.toml Cargo.lock build.rs $(shell find rust -name '*.rs')

# Waiting threads of OpenMP burn the cores that others compute on; models come from disk alone.
export OMP_WAIT_POLICY := PASSIVE
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# A notice about the successor of the pages' theme.
export NO_MKDOCS_2_WARNING := 1
export LOOM_MAX_PREEMPTIONS ?= 3
export PYO3_PYTHON := $(CURDIR)/$(PY)

# apt-get needs root.
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

KILLS ?= 1000
PART_KILLS ?= 500
SEED ?= 0
FUZZ_S ?= 60
TEST_PROCESSES ?= 2
PARTS ?=
SCALE ?= 1
MINUTES ?= inf
export SCHEDULES ?= 10000

.DEFAULT_GOAL := help
# Neither cargo nor a make with jobs of its own takes part in make's count of jobs.
ALONE = MAKEFLAGS=
# What is built to be explored and not shipped needs no optimization across crates.
QUICK_BUILD = CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16

.PHONY: help test-shuffled test-processors check-versions test-lowest test-3.12 test-3.13 setup redis-server chromium build demo test environment test-rust rust-tests rust-turns loom shuttle tsan asan valgrind free-threaded cross mutants test-python lint lint-rust lint-python format check bench gpu bench-rust callgrind simulate matrix prove prove-trace fuzz-trace docs picture wheel sdist try-wheel reproducible audit advisories workflows notices clean kill-parts

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml
	@echo "==> environment in $(VENV): dependencies, and the first build of the Rust core (a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "forwardcache needs Python 3.11 or newer; '$(PYTHON)' is older or isn't there: make PYTHON=python3.12 ..."; exit 2; }
	@command -v cargo >/dev/null || { echo "forwardcache is built with Rust: cargo was not found"; exit 2; }
ifdef UV
	@test -x $(PY) || uv venv --quiet --seed --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	@$(PYTHON) tools/install.py uv pip install --python $(PY) --group dev --editable '.[hf,report]'
else
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --upgrade pip
	@$(PYTHON) tools/install.py $(PY) -m pip install --no-compile --group dev --editable '.[hf,report]'
	@# pip would compile one file after the other. What is no Python, a template say, is passed over.
	@$(PY) -m compileall -qq -j 0 $(VENV)/lib || true
endif
	@touch $@ $(if $(UV),,$(VENV)/.built)

# The environment may have come with the core just now, which make, having looked before, doesn't know.
$(VENV)/.built: $(VENV)/.installed $(RUST_SOURCES)
	@[ -e $@ ] && [ -z "$$(find $? -newer $@)" ] || { echo "==> Rust core" && \
		VIRTUAL_ENV='$(CURDIR)/$(VENV)' $(PYTHON) tools/install.py $(VENV)/bin/maturin develop --quiet --release $(if $(UV),--uv) && \
		touch $@; }

setup: $(VENV)/.installed redis-server chromium  ## the environment

redis-server:
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || { \
		echo "==> redis-server, which the tests of the shared store start"; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -qq -y redis-server >/dev/null; } || \
		echo "redis-server could not be installed: tests that need it will fail and say so"

chromium:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || { \
		echo "==> chromium, in which the tests open the report"; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -qq -y chromium chromium-driver >/dev/null; } || \
		echo "chromium could not be installed: tests that need it will fail and say so"

build: $(VENV)/.built  ## the Rust core, where its sources changed

demo: build  ## the main job on the model that ships with the package
	@echo "==> forwardcache demo"
	$(VENV)/bin/forwardcache demo

# The Rust tests need no Python: they are built and run while the environment is fetched.
test:  ## all tests
	@$(MAKE) --no-print-directory --jobs=2 test-rust environment
	@$(MAKE) --no-print-directory test-python

environment:
	@$(ALONE) $(MAKE) --no-print-directory setup build

test-rust:  ## the Rust tests, two kinds at once: each builds the crate, and loom searches on one core
	@$(ALONE) $(MAKE) --no-print-directory --jobs=2 --output-sync=target loom rust-tests rust-turns shuttle

rust-tests:
	@echo "==> Rust tests"
	$(ALONE) $(CARGO_TEST) --locked

rust-turns:
	@echo "==> the cache for threads that take turns"
	$(ALONE) RUSTC_WORKSPACE_WRAPPER='$(CURDIR)/tools/rustc_take_turns.sh' $(CARGO_TEST) --locked --lib cache::

loom:  ## every interleaving of the races of cache and trace; LOOM_MAX_PREEMPTIONS bounds the search
	@echo "==> loom models, at most $(LOOM_MAX_PREEMPTIONS) preemptions"
	$(ALONE) $(QUICK_BUILD) RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --locked --release --lib models

shuttle:  ## SCHEDULES random and PCT schedules of each race of the cache
	@echo "==> shuttle, $(SCHEDULES) schedules of each race and of each scenario of four threads"
	$(ALONE) $(QUICK_BUILD) RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test --locked --release --lib cache::

tsan:  ## the Rust tests under ThreadSanitizer, the standard library with them
	@rustup component list --installed | grep -q '^rust-src' || rustup component add rust-src
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread" TSAN_OPTIONS="halt_on_error=1 suppressions=$(CURDIR)/tools/tsan.supp" \
		CARGO_TARGET_DIR=target/tsan cargo test --locked -Zbuild-std --target $(HOST) --lib -- --skip histories

asan:  ## the Rust tests under AddressSanitizer, which looks for leaks at the end
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS="fast_unwind_on_malloc=0" \
		LSAN_OPTIONS="suppressions=$(CURDIR)/tools/lsan.supp" CARGO_TARGET_DIR=target/asan \
		cargo test --locked --target $(HOST) --lib -- --skip histories

valgrind: build  ## a short Python run under memcheck: nothing invalid, no reference too many (needs valgrind)
	$(PY) -m tools.memcheck

free-threaded:  ## a CPython without a GIL from Debian's source, the core for it, the tests on it, the figures
	tools/free_threaded.sh

cross:  ## wheels for Linux on aarch64, tried under qemu, and for macOS, which can't be run here
	tools/cross.sh

kill-parts: build  ## jobs whose workers write, killed at 500 random moments (PART_KILLS), with Ray
	$(PY) -m tools.kill_parts --kills $(PART_KILLS) --seed $(SEED)

mutants: build  ## faults put into the cache one at a time, each of which a test must notice
	$(QUICK_BUILD) $(PY) tools/mutants.py

bench-rust:  ## the cache in Rust compared with other caches
	cd benches/peers && CARGO_TARGET_DIR=$(CURDIR)/target/peers cargo bench

test-python: build redis-server chromium
	@echo "==> Python tests"
	$(PY) -m pytest -m "not alone" --numprocesses $(TEST_PROCESSES) --dist loadgroup
	$(PY) -m pytest -m alone

SHUFFLED_TESTS ?= tests

test-shuffled: build redis-server chromium  ## the Python tests in one process, in the order of SEED
	$(PY) -m pytest -m "not alone" --random-order-seed=$(SEED) $(SHUFFLED_TESTS)

test-processors: build  ## tests/hf and tests/cli with the kernels that four other processors have
	$(PY) -m tools.processors --numprocesses $(TEST_PROCESSES) --dist loadgroup tests/hf tests/cli

# An environment of 7 GB each: the lowest versions that are declared, and the newest of other Pythons.
VERSIONS := target/versions
ON_VERSIONS = bin/python -m pytest -m "not alone" --numprocesses $(TEST_PROCESSES) --dist loadgroup tests/hf tests/cli

check-versions: test-lowest test-3.12 test-3.13  ## tests/hf and tests/cli on the lowest versions, and on the newest of two Pythons

test-lowest: $(VERSIONS)/lowest/.installed  ## tests/hf and tests/cli on exactly the lowest versions
	$(VERSIONS)/lowest/$(ON_VERSIONS)

test-3.12 test-3.13: test-%: $(VERSIONS)/newest-%/.installed
	$(VERSIONS)/newest-$*/$(ON_VERSIONS)

IN_VERSION = $(if $(filter lowest,$*),$(PYTHON),python$(*:newest-%=%))
LIMITED_TO = $(if $(filter lowest,$*),--constraint $(@D)/lowest.txt)

$(VERSIONS)/lowest/.installed $(VERSIONS)/newest-3.12/.installed $(VERSIONS)/newest-3.13/.installed: \
		$(VERSIONS)/%/.installed: pyproject.toml tools/lowest.py $(VENV)/.built
	@echo "==> environment in $(@D) (7 GB)"
	@test -x $(@D)/bin/python || $(IN_VERSION) -m venv $(@D)
	@$(PY) -m tools.lowest >$(@D)/lowest.txt
	@$(@D)/bin/python -m pip install --quiet --upgrade pip
	@$(PY) tools/install.py $(@D)/bin/python -m pip install --upgrade $(LIMITED_TO) --group dev \
		--editable '.[hf,report,lm-eval,redis,ray,parts]'
	@touch $@

lint: build  ## formatting, lints, types; those of both languages at once
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint-rust lint-python

lint-rust:
	cargo fmt --check
	$(ALONE) cargo clippy --locked --all-targets -- -D warnings
	$(ALONE) cargo clippy --locked --features python -- -D warnings

lint-python:
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy tests benches tools
	$(PY) -m mypy.stubtest forwardcache._core

format:  ## rewrites the sources in the house's format
	cargo fmt
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

check: lint test  ## what a person runs before a commit

$(VENV)/.bench: $(VENV)/.installed
	$(if $(UV),uv pip install --quiet --python $(PY),$(PY) -m pip install --quiet) --group bench
	@touch $@

BENCHES := run large trace start engine scoring compare adapters states other_models identity view_hit sway rows observe scale store planning coverage diff_page workers

bench: build $(VENV)/.bench  ## measures compared with the peers; PARTS="run trace" only those, WRITE=1 rewrites benches/RESULTS.md
	@for part in $(or $(PARTS),$(BENCHES)); do echo "benches.$$part"; \
		$(PY) -m benches.$$part $(if $(filter 1,$(WRITE)),--write benches/RESULTS.md) || exit 1; done

gpu: build  ## figures of compare, the floor, adapters, kept states and shared forwards on a CUDA device, into benches/RESULTS.md (ten minutes)
	$(PY) -m benches.gpu --write benches/RESULTS.md
	$(PY) -m benches.gpu_views --write benches/RESULTS.md

callgrind: build $(VENV)/.bench  ## instructions a hit (needs valgrind)
	PYTHON=$(PY) benches/callgrind.sh

simulate: build  ## 10,000 jobs of up to 1,000 workers in virtual time, on the schedule that jobs run on (minutes)
	$(PY) -m tools.simulate

matrix: build  ## every causal model type and every kind of adapter, tried (minutes); WRITE=1 rewrites docs/models.md
	$(PY) -m tools.matrix $(if $(filter 1,$(WRITE)),--write)

$(VENV)/.prove: $(VENV)/.installed
	$(if $(UV),uv pip install --quiet --python $(PY),$(PY) -m pip install --quiet) --group prove
	@touch $@

prove: build $(VENV)/.prove  ## the long proof, hours of it, in PROOF.md; PARTS, SCALE and MINUTES say what and how much
	nice -n 15 $(PY) -m tools.prove $(PARTS) --scale $(SCALE) --minutes $(MINUTES)

prove-trace: build  ## kills writers and recoveries of the trace; KILLS and SEED say how many, which
	$(PY) -m tests.trace.kill --kills $(KILLS) --seed $(SEED)

fuzz-trace:  ## any bytes as a journal, for FUZZ_S seconds (needs a nightly compiler and cargo-fuzz)
	cargo +nightly fuzz run --sanitizer none journal -- -max_total_time=$(FUZZ_S)

docs: build  ## the pages of docs/ with the reference, in target/site
	$(VENV)/bin/mkdocs build --strict --quiet

picture: build chromium  ## docs/report.png, from the demo
	$(PY) -m tools.report_picture

$(VENV)/.release: $(VENV)/.installed
	$(if $(UV),uv pip install --quiet --python $(PY),$(PY) -m pip install --quiet) --group release
	@touch $@

wheel: $(VENV)/.release  ## the wheel, in dist/; the same sources give the same bytes
	tools/build_wheel.sh $(PYO3_PYTHON) dist

sdist: $(VENV)/.release  ## the source archive, in dist/
	$(VENV)/bin/maturin sdist --out dist

try-wheel: wheel sdist  ## installs both where nothing else is and uses them; TRY_HF=3.12 also runs the demo
	$(PY) -m tools.try_wheel "$$(ls -t dist/*.whl | head -1)" --sdist "$$(ls -t dist/*.tar.gz | head -1)" $(if $(TRY_HF),--hf $(TRY_HF))
	$(VENV)/bin/abi3audit --strict "$$(ls -t dist/*.whl | head -1)"
	$(VENV)/bin/twine check --strict dist/*

reproducible: $(VENV)/.release  ## builds the last commit's wheel in two folders and compares the bytes
	PY=$(PYO3_PYTHON) tools/reproducible.sh

audit:  ## licences, sources and duplicates of the crates (needs cargo-deny)
	cargo deny --locked check licenses bans sources

advisories: $(VENV)/.release  ## known holes in crates and packages (needs cargo-deny and the network)
	cargo deny --locked check advisories
	@mkdir -p target
	$(PY) -m pip freeze --exclude-editable >target/audited.txt
	$(VENV)/bin/pip-audit --strict --no-deps --disable-pip --requirement target/audited.txt

workflows: $(VENV)/.release  ## what can be said of the workflows without running them
	$(VENV)/bin/yamllint --strict .github
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/zizmor --offline --quiet .github/workflows

notices: build  ## THIRD-PARTY.txt, from the crates that are linked in
	$(PY) -m tools.notices

clean:  ## what was built; the environment stays
	cargo clean
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
