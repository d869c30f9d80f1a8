# Every target takes a fresh machine to its end by itself: environment, install, run.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))

.PHONY: demo test check bench audit docs cluster cluster-down clean

demo: $(VENV)/installed-demo  ## the whole main job, small but nothing faked
	$(BIN)/python jobs/demo.py

test: check $(VENV)/browser  ## the whole test suite, in two halves at once: clusters and pages, and the rest
	@rays=$$(mktemp -d); mkdir $$rays/one $$rays/other; \
	RAY_TMPDIR=$$rays/other $(BIN)/python -m pytest tests/test_docs.py tests/drills tests/infra \
	  > $(VENV)/clusters.log 2>&1 & other=$$!; \
	RAY_TMPDIR=$$rays/one $(BIN)/python -m pytest --ignore=tests/test_docs.py --ignore=tests/drills \
	  --ignore=tests/infra; failed=$$?; \
	wait $$other || failed=1; cat $(VENV)/clusters.log; rm -rf $$rays; exit $$failed

check: $(VENV)/installed-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/installed-check  ## fill docs/benchmarks.md; ONLY=models for one table of it
	$(BIN)/python -m pytest tests/benchmarks/bench_$(or $(ONLY),*).py -s --timeout=0 \
	  --override-ini=python_files='bench_*.py' --override-ini=pythonpath=tests/benchmarks

audit: $(VENV)/audit/installed  ## the image's packages: a bill of materials in runs/, and their known holes
	mkdir -p runs
	$(VENV)/audit/bin/cyclonedx-py requirements infra/constraints.txt --output-file runs/infill.cdx.json
	$(VENV)/audit/bin/pip-audit --strict --requirement infra/constraints.txt --no-deps --disable-pip --progress-spinner off

docs: $(VENV)/installed-docs  ## the pages as a site, in runs/site; a link that leads nowhere ends it
	$(BIN)/python -m mkdocs build

cluster: $(VENV)/installed-cluster  ## three Ray nodes, an object store and MLflow; docs/cluster.md
	$(BIN)/python infra/local/cluster.py up

cluster-down: $(VENV)/installed-cluster  ## leaves nothing of them
	$(BIN)/python infra/local/cluster.py down

$(VENV)/browser: $(VENV)/installed-check  ## for the pages' tests: one that is there, Playwright's, or the system's
	@command -v chromium > $@ || command -v google-chrome > $@ || command -v chromium-browser > $@ || \
	  { $(BIN)/playwright install chromium 2> $@.log && echo playwright > $@; } || \
	  { apt-get update -qq && apt-get install -y -qq chromium > $@.log && command -v chromium > $@; } || \
	  { rm -f $@; cat $@.log; echo "error: the pages' tests need Chromium: install it and try again"; exit 1; }

$(VENV)/audit/installed: infra/audit.txt | $(VENV)/bin/python
	$(BIN)/python -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement infra/audit.txt
	touch $@

$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV)/bin/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:  ## forget the environment and everything the demo made
	rm -rf $(VENV) runs
