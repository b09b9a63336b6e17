# On a bare clone with Python 3.11 or later: `make serve` answers over HTTP, `make test` proves the code.
# Both install the package as a user gets it (not editable), so that a file missing from the wheel is found
# here; the stamps make a second call instant and install again only where pins, metadata or sources changed.
# `make test GPU=1` installs Triton too, a gigabyte, and tests the kernels for GPUs, without one in its interpreter.

VENV  ?= .venv
MODEL ?= nano
HOST  ?= 127.0.0.1
PORT  ?= 8000
ARGS  ?=
GPU   ?=

PYTHONS  = $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11
INSTALL  = rm -rf build && $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Folders are listed too: a deleted file changes its folder's time.
SOURCES := pyproject.toml README.md $(shell find src ! -name '*.pyc' ! -path '*__pycache__*' ! -path '*.egg-info*')

.PHONY: serve test check slow conformance openapi bench clean
.DELETE_ON_ERROR:

serve: $(VENV)/.serve
	@exec $(VENV)/bin/minimax-m1 serve --model $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

test: $(VENV)/.test $(if $(filter-out 0,$(GPU)),$(VENV)/.gpu)
	$(VENV)/bin/python -m pytest $(ARGS)

check: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

slow: $(VENV)/.test
	$(VENV)/bin/python -m pytest -m slow --timeout 3600 $(ARGS)

# The official openai-node client comes from npm into a folder that is thrown away.
conformance: $(VENV)/.test
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	npm install --silent --no-audit --no-fund --prefix "$$folder" openai@6.30.1 zod@4.6.7 && \
	OPENAI_NODE="$$folder" $(VENV)/bin/python -m pytest tests/conformance -m "conformance or not conformance" $(ARGS)

openapi: $(VENV)/.test
	$(VENV)/bin/python tests/serve/test_contract.py > openapi.json

bench: $(VENV)/.test
	@for script in benchmarks/bench_*.py; do $(VENV)/bin/python $$script $(ARGS) || exit 1; done

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch alone and pinned: asked for as a range, it may bring gigabytes of CUDA packages. setuptools builds us.
$(VENV)/.torch: constraints.txt
	@found=; for python in $(PYTHONS); do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    found=$$python; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo 'Python 3.11 or later with venv is needed; name one with `make PYTHON=/path/to/python3 ...`.' >&2; exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$found --version); the first time takes a few minutes."; \
	$$found -m venv $(VENV)
	$(INSTALL) $$(grep -E '^(torch|setuptools)==' constraints.txt)
	@touch $@

$(VENV)/.serve: $(VENV)/.torch $(SOURCES)
	$(INSTALL) --no-build-isolation '.[serve]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(SOURCES)
	$(INSTALL) --no-build-isolation '.[serve,test]'
	@touch $@

# Beside the others and not instead of them: a CUDA build of torch brings a Triton of its own.
$(VENV)/.gpu: $(VENV)/.test
	$(INSTALL) --no-build-isolation '.[gpu]'
	@touch $@
