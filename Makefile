# Every target installs what it needs: a virtual environment in .venv, Debian packages where we may
# (root, or sudo without a password), and for the tests their peers, unpacked into .parts.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

new_enough := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c '$(new_enough)' 2>/dev/null && { command -v $$p; break; }; done)
need_python = @test -n '$(PYTHON)' || \
	{ echo 'make: no Python 3.11 or newer found; install python3.11'; exit 1; }
PARTS = PYTHONPATH=tests/parts $(PYTHON) -m parts
BIN := .venv/bin
# What the compiled engine and the environment are made of: a change makes them anew.
SOURCES := pyproject.toml setup.py $(shell find vhostuser/native -not -path '*/build/*' \
	\( -name '*.[ch]' -o -name build.py \) -not -name '_engine*')

.PHONY: help build parts demo test test-lab check bench bench-profile wheel wheel-try docs native-asan native-tsan fuzz fuzz-quick fuzz-compare fuzz-vfio-user clean

help:
	@echo 'make demo         serve a disk, drive it, verify every byte; boot a guest where QEMU is'
	@echo 'make test         run all tests (fetches their peers first; PYTEST_ARGS are passed on)'
	@echo 'make test-lab     the long tests with guests: QEMU drives our simulated devices by itself'
	@echo 'make check        lint, format, types, layers, generated documents'
	@echo 'make native-asan  the engine under the address and undefined-behaviour sanitizers'
	@echo 'make native-tsan  the engine under the thread sanitizer'
	@echo 'make fuzz-quick   the fuzz targets of rings and requests for a minute (make test does it, too)'
	@echo 'make fuzz         the same until 100 million ring states were seen (STATES=...)'
	@echo 'make fuzz-compare a million ring states against the pure-Python ring (STATES=...)'
	@echo 'make fuzz-vfio-user  a million sessions of vfio-user, in process (SESSIONS=...)'
	@echo 'make bench        measure against the peer, write docs/benchmarks.md (BENCH=null,shm: a part)'
	@echo 'make wheel        build the wheel into dist and look into it'
	@echo 'make wheel-try    install that wheel for PYTHON=python3.13, run demo and tests with it'
	@echo 'make docs         write the generated documents anew'
	@echo 'make build        the virtual environment with the compiled engine, in .venv'
	@echo 'make parts        fetch what the tests need, into .parts'
	@echo 'make clean        remove what was built; .parts stays (remove it by hand)'

build: .venv/.installed

.venv/.installed: $(SOURCES)
	$(need_python)
	@$(PARTS) host
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo 'make: building into .venv'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

parts:
	$(need_python)
	@$(PARTS) get

# The demo boots a guest only where QEMU is installed; then it needs a kernel to boot.
demo: build
	@if command -v qemu-system-x86_64 >/dev/null; then $(PARTS) get guest || true; fi
	@$(BIN)/vhostuser demo

# A part that cannot be had is named by the tests that needed it; they decide whether that is a
# failure (see tests/conftest.py).
test: build
	@$(PARTS) get || true
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-lab: build
	@$(PARTS) get guest vfio-kernel qemu-11
	@$(BIN)/python -m pytest -m lab tests/vfio_lab $(PYTEST_ARGS)

# All of them run, also when one fails: the exit status says so at the end.
check: build
	@status=0; \
	run() { echo "$$*"; "$$@" || status=1; }; \
	run $(BIN)/ruff check; \
	run $(BIN)/ruff format --check; \
	run $(BIN)/mypy; \
	run env MYPYPATH=tests/parts:tests/bench:tests/wheel $(BIN)/mypy -p parts -p bench -p wheels; \
	run env MYPYPATH=tests/parts:tests/fuzz $(BIN)/mypy -p fuzzing; \
	run $(BIN)/lint-imports --no-cache; \
	run $(BIN)/python docs/generate.py --check; \
	exit $$status

# See tests/bench/README.md. Wants an idle machine.
BENCHMARKS = @PYTHONPATH=tests/bench:tests/parts $(BIN)/python -m bench

bench: build
	@$(PARTS) get libblkio qemu-storage-daemon fio dpdk
	$(BENCHMARKS) run $(if $(BENCH),--only $(BENCH)) $(if $(BENCH_QUICK),--quick) $(BENCH_ARGS)

bench-profile: build
	@$(PARTS) get libblkio qemu-storage-daemon fio dpdk
	$(BENCHMARKS) profile $(ROW) $(BENCH_ARGS)

WHEELS = PYTHONPATH=tests/wheel

wheel: build
	@rm -f dist/vhostuser-*.whl
	@$(WHEELS) $(BIN)/python -m wheels make dist

# With any Python from 3.11 on: there is one wheel for all.
wheel-try:
	$(need_python)
	@test -f dist/vhostuser-*.whl || { echo 'make: no wheel in dist; run make wheel first'; exit 1; }
	@$(WHEELS) $(PYTHON) -m wheels try dist/vhostuser-*.whl $(PYTEST_ARGS)

docs: build
	$(BIN)/python docs/generate.py

native-asan native-tsan:
	$(need_python)
	@$(PARTS) host
	$(MAKE) -C vhostuser/native $(@:native-%=%)

# clang with libFuzzer comes as a part where the machine has none. See docs/reference/fuzzing.md.
FUZZING = PYTHONPATH=tests/parts:tests/fuzz $(BIN)/python -m fuzzing

fuzz: build
	@$(PARTS) get clang
	@$(FUZZING) run $(if $(STATES),--states=$(STATES))

fuzz-quick: build
	@$(PARTS) get clang
	@$(FUZZING) quick

fuzz-compare: build
	@$(PARTS) get clang
	@$(FUZZING) compare $(if $(STATES),--states=$(STATES))

fuzz-vfio-user: build
	@$(FUZZING).vfio_user --sessions $(or $(SESSIONS),1000000)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f vhostuser/native/_engine*.c vhostuser/native/_engine*.so
	find . -name __pycache__ -not -path './.parts/*' -prune -exec rm -rf {} +
	if test -f vhostuser/native/Makefile; then $(MAKE) -C vhostuser/native clean; fi
