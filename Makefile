# Two commands on a fresh machine with Python 3.11+ and make: `make console`, `make test`.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python .ci/install.py $(BIN)/python

.PHONY: console install test test-fast check format types contracts lint bench-gpu screenshots clean

console: install  ## open the console, serving the default model
	@$(BIN)/loraconsole

install: .venv/.installed  ## make .venv with the program in it

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("loraconsole needs Python 3.11 or newer: make PYTHON=...") if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing into .venv (torch is large: a few minutes the first time)"
	@$(INSTALL) --editable .
	@touch $@

# What tests and checks need beside the program; the link gives mypy the name users import.
.venv/.installed-dev: .venv/.installed
	@$(INSTALL) --editable '.[dev]'
	@mkdir -p .venv/src && ln -sfn ../.. .venv/src/loraconsole
	@touch $@

PYTEST := $(BIN)/python -m pytest --quiet -r fER --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: .venv/.installed-dev  ## every test; a quarter of an hour on two cores
	@$(PYTEST)

test-fast: .venv/.installed-dev  ## those that start no process and are quick; one minute
	@$(PYTEST) -m 'not processes and not slow'

.PHONY: test-versions
test-versions: .venv/.installed-dev  ## the fast tests with the lowest and the newest dependencies
	@$(INSTALL) uv
	@$(BIN)/python tests/versions.py

# The clients lie in environments of their own: they want other versions than the program, and
# lorax-client other ones than it works with, so each file lists everything and pip adds nothing.
CLIENTS := .venv-clients

.PHONY: test-clients
test-clients: install $(CLIENTS)/.installed  ## real clients against a real pipeline: docs/clients.md
	@cd tests/clients && ../../$(CLIENTS)/python/bin/python -P -m pytest --quiet $(TESTS)

$(CLIENTS)/.installed: $(wildcard tests/clients/constraints*.txt tests/clients/js/package*.json)
	@for name in python aiperf; do test -x $(CLIENTS)/$$name/bin/python || $(PYTHON) -m venv $(CLIENTS)/$$name; done
	@echo "installing the clients into $(CLIENTS) (3 GB)"
	@$(CLIENTS)/python/bin/pip install --quiet --no-deps --requirement tests/clients/constraints.txt
	@$(CLIENTS)/aiperf/bin/pip install --quiet --no-deps --requirement tests/clients/constraints-aiperf.txt
	@mkdir -p $(CLIENTS)/js && cp tests/clients/js/package*.json $(CLIENTS)/js
	@if command -v npm >/dev/null; then npm ci --silent --prefix $(CLIENTS)/js; else echo "no npm: the JavaScript clients are skipped"; fi
	@touch $@

SUITES := .venv-suites
.PHONY: test-json-schema
test-json-schema: .venv/.installed-dev $(SUITES)/.installed  ## JSON Schema's own suite, as forms of answers
	@cd tests && PYTHONPATH=../$(SUITES)/lib ../$(BIN)/python json_schema_suite.py ../$(SUITES)/jsonschema-4.26.0/json/tests/draft2020-12

# The source distribution of this validator has the suite.
$(SUITES)/.installed:
	@$(PYTHON) -m venv $(SUITES)/python
	@$(SUITES)/python/bin/pip install --quiet --target $(SUITES)/lib jsonschema==4.26.0
	@$(SUITES)/python/bin/pip download --quiet --no-deps --no-binary :all: --dest $(SUITES) jsonschema==4.26.0
	@tar -xzf $(SUITES)/jsonschema-4.26.0.tar.gz -C $(SUITES) && touch $@

bench-gpu: install  ## milliseconds a step on this machine's GPU, dummy 8B weights, random adapters
	@$(BIN)/python -P -m loraconsole.pipeline.bench.engine $(BENCH)

screenshots: .venv/.installed-dev  ## draw docs/pictures and docs/keys.md again
	@$(BIN)/python tests/screenshots.py docs

.PHONY: schema
schema: .venv/.installed-dev  ## write docs/json-schema.json from the documents' types
	@$(BIN)/python tests/json_schema.py docs

check: lint types contracts test  ## all that must be green

format: .venv/.installed-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: .venv/.installed-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: .venv/.installed-dev
	@$(BIN)/mypy

contracts: .venv/.installed-dev  ## what may import what; no circles; one name, one meaning
	@$(BIN)/lint-imports
	@$(BIN)/python tests/house.py

.PHONY: chaos
MINUTES ?= 10
SEED ?= 1
chaos: .venv/.installed-dev  ## kills, hostile frames and bodies for MINUTES, by SEED; docs/chaos.md
	@PYTHONPATH=tests $(BIN)/python -P -m chaos all --minutes $(MINUTES) --seed $(SEED)

clean:
	rm -rf .venv build *.egg-info
