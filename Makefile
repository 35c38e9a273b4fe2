# Needs Python 3.11, 3.12 or 3.13 with venv, and make. Everything else goes into VENV.

PYTHON ?= python3
# The environment. Each has the Python that made it: make test PYTHON=python3.13 VENV=.venv-3.13
VENV ?= .venv
PYTEST_ARGS ?=
# Number of processes that run the tests. Many tests wait for a camera, a service or a disk, so five keep two cores busy.
JOBS ?= 5
# The tests of a file share one process, because they share slow fixtures; the files that take longest start first.
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder
CHAOS_ARGS ?=
SOAK_ARGS ?=
CAMERAS_ARGS ?=
# For `make package`: a Python as on the line PC, and the folder that the package is written to.
TARGET_PYTHON ?= /usr/bin/python3
OUT ?= dist

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
# An installation is repeated if one of these changes: they have the dependencies and the version.
PACKAGE := pyproject.toml edge/__init__.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo docs test test-long test-line-pc check format bench chaos power-cuts soak cameras schemas study demo-bundle package node-clients peers-env clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.runtime ## Inspect drawn boards, without torch, and show the line at work; writes demo-out/
	@$(BIN)/python examples/drawn_boards/demo.py --out demo-out

# Threads that wait for each other must not spin: other processes need the cores.
test test-long test-line-pc: export OMP_WAIT_POLICY = PASSIVE
# Hundreds of processes import the same modules: only the first one compiles each module.
test test-long test-line-pc: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/.dev ## Run the tests, in JOBS processes; more options in PYTEST_ARGS
	$(BIN)/python -m pytest $(PARALLEL) -m "not long" $(PYTEST_ARGS)

test-long: $(VENV)/.dev ## Run the long forms of these tests, and many more examples of every property
	$(BIN)/python -m pytest $(PARALLEL) -m "long or hypothesis" --hypothesis-profile long $(PYTEST_ARGS)

test-line-pc: $(VENV)/.line-pc ## Run the property tests of edge without torch, with what a line PC has
	$(BIN)/python -m pytest tests/edge -m "hypothesis and not long" $(PYTEST_ARGS)

check: $(VENV)/.dev ## Check lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code, and fix what the linter can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## Run the micro-benches
	$(BIN)/python -m pytest bench --benchmark-only $(PYTEST_ARGS)

# Test apparatus: it kills processes, fills disks and needs the whole machine. CHAOS_ARGS, SOAK_ARGS and so on have its
# options; `--help` lists them.

chaos: $(VENV)/.runtime ## Check that kills, faulty links and a full disk lose no event; needs root
	@$(BIN)/python -m tests.system.chaos $(CHAOS_ARGS)

power-cuts: $(VENV)/.runtime ## Check that power cuts of line, bridge and broker lose a durable subscriber no result
	@$(BIN)/python -m tests.system.power_cuts $(POWER_CUTS_ARGS)

soak: $(VENV)/.runtime ## Check that the service does not grow in 100,000 frames and 30 minutes
	@$(BIN)/python -m tests.system.soak $(SOAK_ARGS)

cameras: $(VENV)/.dev ## Measure the time until a line notices dead cameras, and inspects again
	@$(BIN)/python -m tests.system.cameras $(CAMERAS_ARGS)

docs: $(VENV)/.docs ## Build the site of README and docs/: docs/_build/index.html
	@$(BIN)/python -m sphinx -q -W -j auto -b html docs docs/_build

schemas: $(VENV)/.runtime ## Write the JSON Schemas of the events from their structs
	@$(BIN)/python -c 'from heatline.edge.wire.schemas import main; main()'

study: ## Train, evaluate and report the study's table on the data in HEATLINE_DATA; continues where it was stopped
	@test -n "$$HEATLINE_DATA" || { \
	  echo "make: HEATLINE_DATA is not set; name the folder of the data sets: make study HEATLINE_DATA=..." >&2; exit 1; }
	@$(MAKE) --no-print-directory $(VENV)/.dev
	$(BIN)/heatline study --out runs/study --results bench/results/study

demo-bundle: $(VENV)/.dev ## Train and export the demo's bundle again
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/drawn_boards/rebuild.sh

package: $(VENV)/.runtime ## Build the package for line PCs without a network, for TARGET_PYTHON; writes OUT, or dist/
	@$(BIN)/python systemd/package.py --python $(TARGET_PYTHON) --out $(OUT)

node-clients: examples/clients/node/node_modules/.made ## Install the packages of the example clients in Node.js

peers-env: .venv-peers/.made ## Install what `heatline bench peers` compares heatline with, in .venv-peers; some GB

clean: ## Delete everything that make makes: environments, demo-out, caches
	rm -rf examples/clients/node/node_modules .venv .venv-* docs/_build demo-out bench-report build dist .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find bench edge examples export heatline tests train -type d -name __pycache__ -prune -exec rm -rf {} +

examples/clients/node/node_modules/.made: examples/clients/node/package.json examples/clients/node/package-lock.json
	@cd examples/clients/node && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# All targets use the environment VENV. Its stamps .made, .runtime, .dev and .docs record what is installed; a stamp that is older
# than the package's definition is made again.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "make: heatline needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) has no venv; on Debian install it with: apt install python3-venv" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(PACKAGE) | $(VENV)/.made
	@echo "installing heatline into $(VENV)"
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.line-pc: $(PACKAGE) $(VENV)/.runtime
	@$(PIP) -e '.[view,mqtt,opcua,rtsp]' hypothesis onnx pymodbus pytest scipy
	@touch $@

$(VENV)/.dev: $(PACKAGE) $(VENV)/.runtime
	@echo "installing the dependencies of development into $(VENV): some GB, some minutes"
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(PACKAGE) $(VENV)/.dev
	@$(PIP) -e '.[docs]'
	@touch $@

# The peers may need other versions than heatline, so they have their own environment, with heatline's OpenVINO, PyTorch
# and NumPy. The build after a +, as in 2.13.0+cpu, is left out: not every index has it, and the bench ignores it.
.venv-peers/.made: bench/peers/requirements.txt | $(VENV)/.dev
	@echo "installing the peers into .venv-peers: some GB, some minutes"
	@$(PYTHON) -m venv .venv-peers
	@$(BIN)/python -m pip list --format=freeze \
	  | sed -nE 's/^(torch|torchvision|openvino|numpy)==([^+]+).*/\1==\2/p' > .venv-peers/as-ours.txt
	@.venv-peers/bin/python -m pip --disable-pip-version-check --quiet install \
	  -r bench/peers/requirements.txt -r .venv-peers/as-ours.txt
	@touch $@
