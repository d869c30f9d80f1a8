# Every target takes a fresh machine to its end by itself: environment, install, run.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))

# Why hashed constraints and not a uv.lock: a uv.lock names one index per package, and torch for CPUs
# is not on PyPI. Machines that cannot reach PyTorch's index, but have its file, could not install.
# So all packages are locked with hashes, and torch's CPU build by its version.
LOCK := infra/constraints.txt
LOCKED ?= --constraint $(LOCK)
UV_VERSION := 0.13.9
TORCH ?= cpu
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
CPU_TORCH = $(if $(LOCKED),torch==$(shell sed -n 's/^torch==\([0-9.]*\).*/\1/p' $(LOCK))+cpu,torch>=2.11,<2.14)
comma := ,
empty :=
ifeq ($(TORCH),cpu)
export UV_FIND_LINKS ?= $(subst $(empty) $(empty),$(comma),$(strip $(PIP_FIND_LINKS)))
else
unexport UV_FIND_LINKS  # A build for CPUs there would pass for the one that is wanted.
endif

# Ray starts hundreds of processes. One that reads PyTorch, Ray and pandas as source, where an
# environment forbids bytecode as containers do, takes 6.5 s of a core to start instead of 3.
unexport PYTHONDONTWRITEBYTECODE

# A part of `make test-cluster`: make test-cluster TESTS=tests/drills
TESTS ?= tests
# Processes that share the tests: of `make test`, and of `make test-cluster`, where the soak of ten
# minutes has one and leaves the processors to the others.
JOBS ?= 3
CLUSTER_JOBS ?= 3
# The order of the tests: the same every time, another with `make test SEED=7`.
SEED ?= 20
PYTEST = RAY_TMPDIR=$$rays $(BIN)/python -m pytest -p randomly --randomly-seed=$(SEED) \
  --dist loadfile --no-loadscope-reorder

# Of `make bench-gpu`: where its rows are kept, and the Python of a machine that has only wheels.
BENCH_GPU_OUT ?= runs/bench-gpu
BENCH_PYTHON ?= $(PYTHON)

.PHONY: install demo test test-cluster latest lock mutants check bench bench-gpu audit docs cluster cluster-down clean

install: $(VENV)/installed-demo  ## the environment in .venv, for the commands of README and pages

demo: $(VENV)/installed-demo  ## the whole main job, small but nothing faked
	$(BIN)/python jobs/demo.py

test: check $(VENV)/browser $(VENV)/iopaint/installed  ## what everyone runs: linter, type checker, and tests
	@rays=$$(mktemp -d); trap 'rm -rf $$rays' EXIT; echo "seed: $(SEED)"; \
	$(PYTEST) -n $(JOBS) -m "not cluster and not gpu" --junitxml=runs/tests.xml

test-cluster: $(VENV)/browser  ## the long tests: clusters, drills, pages of docs, the image's install
	@rays=$$(mktemp -d); trap 'rm -rf $$rays' EXIT; echo "seed: $(SEED)"; $(PYTEST) -n $(CLUSTER_JOBS) $(TESTS) -m cluster --junitxml=runs/cluster-tests.xml

latest:  ## `make test` with the newest versions that pyproject.toml allows, in an environment of its own
	rm -rf $(VENV)/latest
	$(MAKE) VENV=$(VENV)/latest LOCKED= test

lock: $(BIN)/uv  ## renew infra/constraints.txt: the newest versions for Python 3.11 to 3.13, with hashes
	@echo "# Every package of every extra, for Python 3.11 to 3.13; \`make lock\` renews it." > $(LOCK).new
	env -u UV_FIND_LINKS -u UV_INDEX -u UV_EXTRA_INDEX_URL $(BIN)/uv pip compile --no-config --quiet --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate --all-extras \
	  --default-index https://pypi.org/simple pyproject.toml >> $(LOCK).new
	mv $(LOCK).new $(LOCK)

mutants: $(VENV)/installed-mutants  ## faults planted where they would be silent: do the tests see them?
	rm -rf mutants
	$(BIN)/mutmut run
	$(BIN)/python tests/mutants.py

check: $(VENV)/installed-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/installed-check  ## fill docs/benchmarks.md; ONLY=models for one table of it; CROWDED=1 beside other work
	$(BIN)/python tests/benchmarks/conditions.py
	$(BIN)/python -m pytest tests/benchmarks/bench_$(or $(ONLY),*).py -s --timeout=0 \
	  --override-ini=python_files='bench_*.py' --override-ini=pythonpath=tests/benchmarks

bench-gpu: $(if $(WHEELS),$(VENV)/gpu/installed,$(VENV)/installed-check)  ## the rows that need a GPU; STEP=1 to 5, SECONDS=2, WHEELS=folder
	PYTHONPATH=. $(if $(WHEELS),$(VENV)/gpu/bin,$(BIN))/python tests/benchmarks/gpu.py $(if $(STEP),--step $(STEP)) $(if $(SECONDS),--seconds $(SECONDS)) --out $(BENCH_GPU_OUT)

$(VENV)/gpu/installed: $(wildcard $(WHEELS)/*.whl)  ## a bare machine without network: the wheels in the folder, and no others
	$(BENCH_PYTHON) -m venv $(VENV)/gpu
	$(VENV)/gpu/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps $^
	touch $@

audit: $(VENV)/audit/installed  ## the locked packages: a bill of materials in runs/, and their known holes
	mkdir -p runs
	$(VENV)/audit/bin/cyclonedx-py requirements $(LOCK) --output-file runs/infill.cdx.json
	$(VENV)/audit/bin/pip-audit --strict --requirement $(LOCK) --no-deps --disable-pip --progress-spinner off

docs: $(VENV)/installed-docs  ## the pages as a site, in runs/site; a link that leads nowhere ends it
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build

cluster: $(VENV)/installed-cluster  ## three Ray nodes, an object store and MLflow; docs/cluster.md
	$(BIN)/python infra/local/cluster.py up

cluster-down: $(VENV)/installed-cluster  ## leaves nothing of them
	$(BIN)/python infra/local/cluster.py down

$(VENV)/browser: $(VENV)/installed-check  ## for the pages' tests: one that is there, the system's, or Playwright's
	@command -v chromium > $@ || command -v google-chrome > $@ || command -v chromium-browser > $@ || \
	  { test "$$(id -u)" = 0 && command -v apt-get > $@.log && \
	    { apt-get update -qq && apt-get install -y -qq chromium; } > $@.log 2>&1 && command -v chromium > $@; } || \
	  { $(BIN)/playwright install chromium 2> $@.log && echo playwright > $@; } || \
	  { rm -f $@; cat $@.log; echo "error: the pages' tests need Chromium: install it and try again"; exit 1; }

$(VENV)/audit/installed: infra/audit.txt | $(BIN)/uv
	$(BIN)/python -m venv --without-pip $(@D)
	$(BIN)/uv pip install --quiet --python $(@D) --requirement infra/audit.txt
	touch $@

$(VENV)/iopaint/installed: infra/iopaint.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  --target $(@D) --upgrade --requirement infra/iopaint.txt
	touch $@

$(VENV)/installed-%: pyproject.toml $(LOCK) | $(VENV)/torch-$(TORCH)
	$(BIN)/uv pip install --quiet --python $(VENV) $(LOCKED) --build-constraint $(LOCK) \
	  --editable '.[$*$(if $(filter cuda,$(TORCH)),$(comma)cuda)]'
	touch $@

# The CPU build or none: on Linux PyPI's build is the one for CUDA, gigabytes larger.
$(VENV)/torch-cpu: $(LOCK) | $(BIN)/uv
	@if [ "$$(uname -s)" = Linux ]; then \
	  $(BIN)/uv pip install --quiet --python $(VENV) --no-deps --no-index '$(CPU_TORCH)' 2> $@.log || \
	  $(BIN)/uv pip install --quiet --python $(VENV) --no-deps --default-index $(CPU_INDEX) '$(CPU_TORCH)' || \
	  { echo "error: no torch for CPUs: name its wheel's folder in PIP_FIND_LINKS, or make TORCH=cuda"; exit 1; }; \
	fi
	touch $@

$(VENV)/torch-cuda: $(LOCK) | $(BIN)/uv
	touch $@

$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "error: Python 3.11, 3.12 or 3.13 is needed; name it with: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:  ## forget the environment and everything the demo made
	rm -rf $(VENV) runs
