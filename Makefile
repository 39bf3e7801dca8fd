# Benchmark of mixup methods in multimodal sentiment analysis. `make help` lists the targets.

PROFILE ?= quick
STUDY ?= $(PROFILE)
DATA_ROOT ?=
JOBS ?=
PARAM ?=
METHOD ?=
BASE ?=
ARGS ?=
PART ?=
LATEST ?=
MINUTES ?= 15

PYTHON := .venv/bin/python
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0

SETTINGS = profile=$(PROFILE) 'study=$(STUDY)' \
	$(if $(DATA_ROOT),'data_root=$(DATA_ROOT)') $(if $(JOBS),jobs=$(JOBS)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup constraints benchmark sweep tune report ui pictures perf gpu-check lint test test-slow soak mutants

help: ## every target, a line each
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "Variables: PROFILE=quick|paper STUDY=name DATA_ROOT=dir JOBS=n ARGS='KEY=VALUE ...'"
	@echo "           PARAM=delta|xi|alpha|heads|all (sweep) METHOD=name (tune) BASE=rev (perf)"
	@echo "           PART=folder (test) LATEST=1 (setup)"

setup: .venv/.ready ## make .venv (the other targets call it when needed); LATEST=1: the newest versions

.venv/.ready: pyproject.toml constraints.txt
	python3 -m venv .venv
	$(PYTHON) -m pip install -q --disable-pip-version-check $(if $(LATEST),,-c constraints.txt) -e '.[dev]'
	@touch $@

constraints: .venv/.ready ## renew constraints.txt with the newest versions that fit; then run the tests
	$(PYTHON) -m pip install -q --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[dev]'
	$(PYTHON) -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > constraints.txt

benchmark: .venv/.ready ## run the profile's matrix, resume it, build its report (default: the quick look)
	@$(PYTHON) -m harness.benchmark $(SETTINGS)

sweep: .venv/.ready ## try settings of MS-Mix: PARAM=delta|xi|alpha|heads|all (Figure 4)
	@$(PYTHON) -m sweeps.run $(if $(PARAM),param=$(PARAM)) $(SETTINGS)

tune: .venv/.ready ## tune METHOD=name on the validation split, for the benchmark's tuned=var/tuned
	@$(PYTHON) -m sweeps.run $(if $(METHOD),tune=$(METHOD)) $(SETTINGS)

report: .venv/.ready ## rebuild figures, tables and page from what MLflow holds; trains nothing
	@$(PYTHON) -m reports.build 'study=$(STUDY)' $(ARGS)

ui: .venv/.ready ## the MLflow UI on 127.0.0.1:5000, and the link to the study
	@$(PYTHON) -m reports.ui 'study=$(STUDY)' $(ARGS)

pictures: .venv/.ready ## the README's pictures, from the report of the quick study (needs Chromium)
	@$(PYTHON) -m tests.support.pictures var/reports/quick

perf: .venv/.ready ## how fast it is, held against its bounds; writes var/perf (BASE=rev: compare with it)
	@$(PYTHON) -m tests.perf $(if $(BASE),'--base=$(BASE)') $(ARGS)

gpu-check: .venv/.ready ## is training on CUDA right, repeatable and fast? every backbone with every method
	@$(PYTHON) -m tests.perf.gpu $(ARGS)

lint: .venv/.ready ## ruff, mypy and the contract of imports
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-logo

test: $(if $(PART),.venv/.ready,lint) ## the fast tests; PART=methods: one folder; ARGS=--update: write what is generated
	@$(PYTHON) -m pytest -m "not slow and not soak" -n 2 $(ARGS) $(if $(PART),'tests/$(PART)')

# They wait a third of their time: for databases, nodes, claims that fall.
test-slow: .venv/.ready ## the slow tests
	@$(PYTHON) -m pytest -m "slow and not soak" -n 3 --dist worksteal --durations=15

soak: .venv/.ready ## kill drivers and workers for MINUTES=15, read hostile files, run tests with new random examples
	@MINUTES=$(MINUTES) $(PYTHON) -m tests.end_to_end.soak
	@$(PYTHON) -m tests.fuzz
	@$(PYTHON) -m pytest -m "not slow" -n 2 --hypothesis-profile=random --durations=15

mutants: .venv/.ready ## change the code that decides numbers at random, 400 times: do its own tests notice?
	@$(PYTHON) -m tests.mutants $(ARGS)
