# Needs Python >= 3.11 with its venv module, make, and a package index that pip can reach.
# `make run` is all it takes; `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=

# Ctrl-C and SIGTERM reach the server because it replaces the recipe's shell; the kernel tells it
# when make itself is killed (setpriv is in Debian's base system; elsewhere make goes without).
TIED = $(shell setpriv --pdeathsig TERM true 2>/dev/null && echo setpriv --pdeathsig TERM)

PLOTTING := $(VENV)/.plotting
# Where benches leave their JSON lines.
BENCH_OUT := build/bench

.PHONY: help install run test lint format docs bench plots bench-peers bench-peers-ingest torture lock clean

help:
	@echo "make install   make .venv: everything pinned and hash-checked, then the project itself"
	@echo "make run       start exchanges, server and an embedded Valkey; prints the dashboard's address"
	@echo "make test      all tests, with a real Valkey"
	@echo "make lint      ruff and mypy"
	@echo "make format    let ruff rewrite the files"
	@echo "make docs      write docs/exchanges.md anew from the adapters and the recordings"
	@echo "make bench-peers  other servers for python -m bench.fanout --peers all, into build/peers"
	@echo "make bench-peers-ingest  other programs for python -m bench.ingest --peers"
	@echo "make bench     all benches, some minutes; JSON lines, and plots where matplotlib is, in $(BENCH_OUT)"
	@echo "make plots     install matplotlib and draw what make bench left"
	@echo "make torture   kill, freeze and restart everything at random, and account for every entry"
	@echo "make lock      renew requirements.lock from pyproject.toml (UPGRADE=1: take newer versions)"
	@echo "make clean     remove .venv, caches and builds"
	@echo "ARGS='…' is handed on to the command behind run, test and torture."

install: $(STAMP)

# Sources are never built for the dependencies: a wheel whose hash is in the lock, or a clear no.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (once; about half a minute)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes --only-binary=:all: -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --no-index -e .
	@touch $@

run: $(STAMP)
	@exec $(TIED) $(BIN)/feed run $(ARGS)

test: $(STAMP)
	@exec $(BIN)/python -m pytest -n auto $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs the recordings beside the checkout; they are what the page tells of.
docs: $(STAMP)
	@$(BIN)/python -m tests.adapters.exchange_table

# Short runs of everything; docs/benchmarks.md says how each is run in earnest.
bench: export BENCH_OUT := $(BENCH_OUT)
bench: $(STAMP)
	@rm -rf $(BENCH_OUT)
	@$(BIN)/python -m bench.fanout --seconds 5
	@$(BIN)/python -m bench.ingest
	@$(BIN)/python -m bench.storm --clients 2000
	@$(BIN)/python -m bench.memory --counts 500,1500,2500
	@$(BIN)/python -m bench.endtoend --seconds 6
	@$(BIN)/python -m bench.plots $(BENCH_OUT)/*.jsonl --out $(BENCH_OUT)

plots: $(PLOTTING)
	@$(BIN)/python -m bench.plots $(BENCH_OUT)/*.jsonl --out $(BENCH_OUT)

$(PLOTTING): requirements-bench.lock $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes --only-binary=:all: -r requirements-bench.lock
	@touch $@

# Exactly the files whose hashes are in the lock, and no scripts of theirs. The lock holds no address
# of a registry: npm install --package-lock-only --omit-lockfile-registry-resolved renews it.
bench-peers: $(STAMP)
	@mkdir -p build/peers && rm -rf build/peers/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  --only-binary=:all: --target build/peers/python -r bench/peers/requirements.lock
	@cp bench/peers/package.json bench/peers/package-lock.json build/peers/
	@cd build/peers && if command -v npm >/dev/null; \
	  then npm ci --silent --ignore-scripts --no-audit --no-fund; \
	  else echo "npm is not installed: without the peers in JavaScript" >&2; fi
# For `python -m bench.ingest --peers` alone; nothing of the project needs them. cryptofeed is published
# as source, so this builds it: a C compiler is needed.
PEERS_INGEST := build/peers/ingest
bench-peers-ingest: $(STAMP)
	@mkdir -p $(PEERS_INGEST)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  --upgrade --target $(PEERS_INGEST)/python -r bench/peers/ingest/requirements.lock
	@cp bench/peers/ingest/package.json bench/peers/ingest/package-lock.json $(PEERS_INGEST)/
	@cd $(PEERS_INGEST) && npm ci --ignore-scripts --no-audit --no-fund

torture: $(STAMP)
	@exec $(BIN)/python -m tests.torture $(ARGS)

# The resolver lives in an environment of its own: nothing but this target needs it. Hashes of
# every file of a version go in, so one lock serves all machines; the download is the proof that
# each package has a wheel with such a hash on both architectures.
LOCK_VENV := build/lock
GLIBC     := 2_5 2_12 2_17 2_24 2_26 2_27 2_28

lock:
	@"$(PYTHON)" -m venv $(LOCK_VENV)
	@$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv pip==26.3
	$(LOCK_VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --quiet \
	  --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) -o requirements.lock
	$(LOCK_VENV)/bin/uv pip compile bench/peers/requirements.in --constraint requirements.lock \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --quiet --custom-compile-command "make lock" -o bench/peers/requirements.lock
	$(LOCK_VENV)/bin/uv pip compile pyproject.toml --extra bench --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --quiet -c requirements.lock \
	  $$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements.lock) \
	  --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) -o requirements-bench.lock
	@for arch in x86_64 aarch64; do \
	  rm -rf $(LOCK_VENV)/$$arch; \
	  $(LOCK_VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
	    --require-hashes --only-binary=:all: --python-version 3.11 --implementation cp \
	    --abi cp311 --abi abi3 --abi none --platform manylinux2014_$$arch \
	    $(foreach v,$(GLIBC),--platform manylinux_$(v)_$$arch) \
	    -r requirements.lock -r requirements-bench.lock -d $(LOCK_VENV)/$$arch && echo "$$arch: wheels for everything" || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find feed adapters tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
