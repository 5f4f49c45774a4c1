# The front door: `make run` serves the example, `make test` proves that all of it works.
#
# Two virtual environments: .venv holds the optimised build (run, bench), .cache/venv a build that
# is quick to make, and the tools (test, lint, soak). Both are made and brought up to date here.

SHELL := bash
.DEFAULT_GOAL := help
VENV := .venv
TOOLS := .cache/venv
PORT ?= 8000
WORKERS ?= 4
DASHBOARD ?= 8001
MINUTES ?= 10
ARGS ?=
# Of `make bench`; not taken from the environment, where bash has a SECONDS of its own.
BENCH_FLAGS = $(if $(CASE),--case "$(CASE)") $(if $(PEERS),--peers "$(PEERS)") \
  $(if $(VARIANT),--variant "$(VARIANT)") $(if $(ROUNDS),--rounds $(ROUNDS)) \
  $(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS)) $(if $(QUICK),--quick) \
  $(if $(JSON),--json "$(JSON)") $(if $(ADD),--add)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHON
# The extension module is built for the Python that runs it.
export PYO3_PYTHON := $(CURDIR)/$(TOOLS)/bin/python

SOURCES := $(shell find crates python packaging -type f \( -name '*.rs' -o -name '*.toml' -o -name '*.py' -o -name '*.pyi' \)) Cargo.toml Cargo.lock pyproject.toml README.md

.PHONY: help
help: ## say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

.PHONY: run
run: $(VENV)/.evener ## serve the example shop from several workers (PORT=8000 WORKERS=4 DASHBOARD=8001)
	@echo
	@echo "  The shop:  http://127.0.0.1:$(PORT)/      its API: http://127.0.0.1:$(PORT)/docs"
	@echo "  Dashboard: http://127.0.0.1:$(DASHBOARD)/      every worker, live"
	@echo "  Meanwhile: $(VENV)/bin/evener workers     $(VENV)/bin/evener reload     stop it with Ctrl-C"
	@echo
	@exec $(VENV)/bin/evener run app.main:app --app-dir examples/shop --port $(PORT) --workers $(WORKERS) \
		--admin-address 127.0.0.1:$(DASHBOARD) $(ARGS)

.PHONY: test
test: $(TOOLS)/.evener ## build, and run every test; says what was skipped and why
	@$(TOOLS)/bin/python tests/everything.py $(ARGS)

.PHONY: soak
soak: $(TOOLS)/.evener ## kills and reloads for a minute under full load
	$(TOOLS)/bin/python -m pytest tests -m soak -o addopts="-ra -s" $(ARGS)

.PHONY: test-asgi-suites
test-asgi-suites: $(TOOLS)/.evener ## the public ASGI suites, by gunicorn's source package
	$(TOOLS)/bin/python tests/asgi_suites/run.py $(ARGS)

.PHONY: lint
lint: $(TOOLS)/.tools ## formatting, clippy, licences, types, and the architecture
	@echo 'the lock file is up to date' && cargo metadata --locked --format-version 1 >/dev/null
	cargo fmt --all --check
	cd fuzz && cargo fmt --check
	cd bench/load && cargo fmt --check
	cd bench/peers && cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo xtask check
	@if cargo deny --version >/dev/null 2>&1; \
	then echo cargo deny check bans licenses sources; cargo deny --log-level error check bans licenses sources; \
	else echo 'skipped: cargo deny (not installed: cargo install --locked cargo-deny)'; fi
	$(TOOLS)/bin/ruff format --check .
	$(TOOLS)/bin/ruff check .
	$(TOOLS)/bin/mypy packaging python
	cd examples/shop && ../../$(TOOLS)/bin/mypy --config-file ../../pyproject.toml app
	cd bench && ../$(TOOLS)/bin/mypy --config-file ../pyproject.toml *.py sidebyside apps
	cd tests && MYPYPATH=../python:../bench ../$(TOOLS)/bin/mypy --config-file ../pyproject.toml --explicit-package-bases .

.PHONY: format
format: $(TOOLS)/.tools ## put all code into the house's form
	cargo fmt --all
	cd fuzz && cargo fmt
	cd bench/load && cargo fmt
	cd bench/peers && cargo fmt --all
	$(TOOLS)/bin/ruff check --fix --quiet . || true
	$(TOOLS)/bin/ruff format .

.PHONY: bench
bench: $(VENV)/.evener ## measure beside what people would use instead (CASE=a,b PEERS=nginx ROUNDS=5 SECONDS=2 QUICK=1)
	$(VENV)/bin/python bench/install.py
	$(VENV)/bin/python bench/run.py $(BENCH_FLAGS) $(ARGS)

.PHONY: bench-report
bench-report: ## write bench/REPORT.md from bench/report/results.json (filled by make bench JSON=… ADD=1)
	python3 bench/report.py $(ARGS)

.PHONY: regress
regress: $(TOOLS)/.evener ## instructions, system calls, allocations of a request, by valgrind (UPDATE=1: new baseline)
	$(TOOLS)/bin/python bench/regress.py $(if $(UPDATE),--update) $(ARGS)

.PHONY: fuzz
fuzz: ## fuzz the HTTP parsers (MINUTES=10)
	cd fuzz && cargo run --quiet --release -- --minutes $(MINUTES) $(ARGS)

.PHONY: clean
clean: ## remove everything that was made here
	rm -rf target fuzz/found .cache $(VENV) evener.data dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f python/evener/*.so

# The optimised build, beside the shop's requirements.
$(VENV)/.shop: packaging/venv.sh examples/shop/requirements.txt
	@packaging/venv.sh $(VENV)
	$(VENV)/bin/pip install --quiet --requirement examples/shop/requirements.txt
	@touch $@

$(VENV)/.evener: $(VENV)/.shop $(SOURCES)
	@echo 'building Evener (the first time takes a few minutes)'
	PYO3_PYTHON= $(VENV)/bin/pip install --quiet --force-reinstall --no-deps .
	@touch $@

# The quick build, beside the tools.
$(TOOLS)/.tools: packaging/venv.sh tests/requirements.txt examples/shop/requirements.txt
	@packaging/venv.sh $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --requirement tests/requirements.txt
	@touch $@

$(TOOLS)/.evener: $(TOOLS)/.tools $(SOURCES)
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" EVENER_BUILD_PROFILE=quick \
	  $(TOOLS)/bin/pip install --quiet --force-reinstall --no-deps --no-build-isolation .
	@touch $@
