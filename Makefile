# make book       run the chain and build the book     SCALE=smoke|laptop|full|gpu  DRY=1 only lists  JOBS=n cores
# make compare    do my numbers agree with the published ones?
# make check      format, types, layers and the fast tests: a minute
# make test       every test but the slow ones         make slow   those
# make bench      training speed beside TRL, this machine's table of results/bench
# make gpu-check  on one GPU: chapter 14 larger, precisions, sampler, speed, in stages
# make setup      only .venv                           make clean  remove what runs wrote (runs/), keep .venv
SCALE ?= laptop
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
comma := ,

.PHONY: book setup check test slow compare bench gpu-check clean
book: .venv/.book
	@$(RUN) mipo_study.book.run book --scale $(SCALE) $(if $(DRY),--dry) $(if $(JOBS),--jobs $(JOBS)) $(if $(ARGS),-- $(ARGS))

setup: .venv/.book

check: .venv/.dev
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) pyrefly check
	$(RUN) pytest -q -n $(or $(JOBS),2) -m fast $(ARGS)

# three processes for two cores: many of these tests wait for what they have started
test: .venv/.dev
	$(RUN) pytest -n $(or $(JOBS),3) -m "not slow" $(ARGS)

slow: .venv/.dev
	$(RUN) pytest -n $(or $(JOBS),2) -m slow $(ARGS)

compare: .venv/.book
	@$(RUN) mipo_study.book.compare --scale $(SCALE)

bench: .venv/.dev
	$(RUN) mipo_study.bench.speed $(ARGS)
	$(RUN) mipo_study.bench.replies

gpu-check: .venv/.book
	$(RUN) mipo_study.bench.gpu $(ARGS)

clean:
	rm -rf runs .snakemake .pytest_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	 { echo "This study needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.%: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv with the tested versions (once; some minutes)"
	@$(RUN) pip install --quiet -c constraints.txt -e ".[book$(if $(filter dev,$*),$(comma)dev)]"
	@touch $@ $(if $(filter dev,$*),.venv/.book)
