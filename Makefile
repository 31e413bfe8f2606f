# `make` alone lists the verbs. Nothing but make and Python 3.11 or later is needed to start.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
# The first of these that is 3.11 or later; `make PYTHON=...` names another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PY := $(VENV)/bin/python
# One thread to each process: on a small machine two threads of one training are slower than one.
export OMP_NUM_THREADS ?= 1

ENVIRONMENT = $(if $(PYTHON),@$(PYTHON) -m standalone.environment --venv $(VENV),\
	@echo "No Python 3.11 or later was found: install one, or say where it is with make PYTHON=/path/to/python3." >&2; exit 1; :)

.PHONY: help env env-dev demo up test test-fast test-all test-stores check format reproduce bench evidence formulas methods truth noise tables gpu openapi migration fuzz job load queue chaos screenshots lock clean

help:  ## list these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env:  ## make .venv from the lock, if it is absent or stale
	$(ENVIRONMENT) standalone

env-dev:  ## the same with what the tests and checks need
	$(ENVIRONMENT) dev

demo: env  ## train on real data, write modules and pictures to demo/, then stop; KEEP=1 keeps the service running
	@$(PY) -m standalone demo $(if $(KEEP),--keep)

up: env  ## serve until Ctrl-C; prints the address and the first admin token
	@$(PY) -m standalone up

test: env-dev  ## every test but the slow ones
	@$(PY) -m pytest -n 3 --dist loadfile

test-fast: env-dev  ## the quick tests of engine, store and API, without processes: about two minutes
	@$(PY) -m pytest -n 2 --dist loadfile -m "not slow and not paper and not processes and not long" tests/engine tests/store tests/api

test-all: env-dev  ## the slow tests too; `make test-all MARK=paper` only those
	@$(PY) -m pytest -n 3 --dist loadfile -m "$(or $(MARK),slow or not slow)"

STORES = tests/store tests/worker tests/api tests/attacks tests/faults tests/end_to_end
test-stores: env-dev  ## the tests of the service once more, all of them on PostgreSQL and S3
	@TESTS_ON=postgres+s3 $(PY) -m pytest -n 3 --dist loadfile $(STORES)

check: env-dev  ## lint, types, imports, migrations, OpenAPI, compose file, no hosts or paths
	@$(PY) .ci/check.py

format: env-dev  ## format every Python file and fix what ruff can
	@$(VENV)/bin/ruff check --quiet --fix-only . ; $(VENV)/bin/ruff format --quiet .

reproduce: env  ## the paper's figures over seeds 0, 1, …; ONLY=name SEEDS=n; writes reports/reproduce.json
	@$(PY) -m measurements reproduce $(if $(ONLY),--only $(ONLY)) $(if $(SEEDS),--seeds $(SEEDS))

evidence: env  ## are the modules there? over seeds 0, 1, …; SEEDS=n; writes reports/evidence.json
	@$(PY) -m measurements evidence $(if $(ONLY),--only $(ONLY)) $(if $(SEEDS),--seeds $(SEEDS))

formulas: env  ## are formulas found? thirty functions, and a product that networks learnt; DRAWS=n SEEDS=n; writes reports/formulas.json
	@$(PY) -m measurements formulas $(if $(DRAWS),--draws $(DRAWS)) $(if $(SEEDS),--networks $(SEEDS))

methods: env  ## vanilla, L1 and BIMT, each in its shortest layout before their wiring is compared; SEEDS=n; writes reports/methods.json
	@$(PY) -m measurements methods $(if $(SEEDS),--seeds $(SEEDS))

truth: env-dev  ## data whose modules are known, and which methods find them; ONLY=name SEEDS=n BUDGET=minutes; writes reports/truth.json
	@$(PY) -m measurements truth $(if $(ONLY),--only $(ONLY)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(BUDGET),--budget $(BUDGET))

noise: env  ## tables with nothing to find: is nothing kept and nothing claimed? SEEDS=n; writes reports/noise.json
	@$(PY) -m measurements noise $(if $(ONLY),--only $(ONLY)) $(if $(SEEDS),--seeds $(SEEDS))

tables: env-dev  ## public tables over HTTP, compared with linear models and boosted trees; SEEDS=n; writes reports/tables.json
	@$(PY) -m measurements tables --planted $(if $(ONLY),--only $(ONLY)) $(if $(SEEDS),--seeds $(SEEDS))

bench: env  ## steps, relocation and a whole job compared with a plain implementation; writes reports/bench.json
	@$(PY) -m measurements bench

gpu: env-dev  ## all that needs a CUDA device, in at most eight minutes; ONLY=part; writes reports/gpu.json
	@$(PY) -m measurements gpu $(if $(ONLY),--only $(ONLY))

openapi: env  ## write openapi.json from the routes
	@$(PY) -m api.openapi


migration: env-dev  ## write the next migration from the tables; M="what it does"
	@test -n "$(M)" || { echo 'Say what it does: make migration M="runs remember their device"' >&2; exit 1; }
	@draft=$$(mktemp -d) && trap 'rm -r "$$draft"' EXIT && export BIMT_DATABASE_URL=sqlite:///$$draft/draft.sqlite && \
		$(PY) -m alembic upgrade head && $(PY) -m alembic revision --autogenerate -m "$(M)"

fuzz: env-dev  ## fuzz every address with schemathesis, EXAMPLES=n each; damaged uploads, FILES=n of each format
	@FUZZ_EXAMPLES=$(or $(EXAMPLES),2000) FUZZ_UPLOADS=$(or $(FILES),500) \
		$(PY) -m pytest -n 2 tests/api/test_fuzz.py tests/api/test_upload_fuzz.py

job: env-dev  ## from submit to published, one seed and twenty, on a service of its own; writes reports/job.json
	@$(PY) -m measurements job

load: env-dev  ## the load of a team, and overload, on PostgreSQL; writes reports/load.json
	@$(PY) -m measurements load

queue: env-dev  ## claims among 100 000 waiting jobs, 2 000 small jobs through the whole stack; JOBS=n; writes reports/queue.json
	@$(PY) -m measurements queue $(if $(JOBS),--jobs $(JOBS))

chaos: env-dev  ## kill, stop, fill and damage everything at random; JOBS=n FAULTS=n SEED=n; writes reports/chaos.json
	@$(PY) -m measurements chaos $(if $(JOBS),--jobs $(JOBS)) $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED))

screenshots: env-dev  ## how quickly the pages answer; pictures of them, light and dark, in docs/images/; writes reports/page.json
	@$(PY) -m measurements page --images docs/images

lock:  ## resolve the extras of pyproject.toml anew into requirements/*.txt; needs uv
	@$(PYTHON) .ci/lock.py

clean:  ## remove what the verbs made, the environment too
	rm -rf $(VENV) demo reports build dist *.egg-info client/build client/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
