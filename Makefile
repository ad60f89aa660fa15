# make book            run the chain and build the book     SCALE=smoke|laptop|full|gpu   DRY=1 only lists   JOBS=n side by side
# make test            all tests, set up included           make compare  do my numbers agree with the published ones?
# make bench           training speed beside TRL, this machine's table of results/bench
# make setup           only .venv                           make clean    remove what runs wrote (runs/), keep .venv
SCALE ?= laptop
PYTHON ?= python3
BIN := .venv/bin
comma := ,

.PHONY: book setup test compare bench clean
book: .venv/.book
	@$(BIN)/python -m mipo_study.book.run book --scale $(SCALE) $(if $(DRY),--dry) $(if $(JOBS),--jobs $(JOBS))

setup: .venv/.book

test: .venv/.dev
	$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile $(ARGS)

compare: .venv/.book
	@$(BIN)/python -m mipo_study.book.compare --scale $(SCALE)

bench: .venv/.dev
	$(BIN)/python -m mipo_study.bench.speed $(ARGS)

clean:
	rm -rf runs .snakemake .pytest_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	 { echo "This study needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.%: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv with the tested versions (once; some minutes)"
	@$(BIN)/pip install --quiet -c constraints.txt -e ".[book$(if $(filter dev,$*),$(comma)dev)]"
	@touch $@ $(if $(filter dev,$*),.venv/.book)
