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
GAIN ?= 0.02

PYTHON := .venv/bin/python
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0

NAMED = $(if $(filter %.yaml %.yml,$(STUDY)),'$(STUDY)','study=$(STUDY)')
SETTINGS = $(if $(filter %.yaml %.yml,$(STUDY)),,profile=$(PROFILE)) $(NAMED) \
	$(if $(DATA_ROOT),'data_root=$(DATA_ROOT)') $(if $(JOBS),jobs=$(JOBS)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup constraints benchmark sweep tune report check plan ui pictures perf gpu-check lint test test-slow soak mutants

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "Variables: PROFILE=quick|paper STUDY=name|file.yaml DATA_ROOT=dir JOBS=n ARGS='KEY=VALUE ...'"
	@echo "           PARAM=delta|xi|alpha|heads|all (sweep) METHOD=name (tune) BASE=rev (perf)"
	@echo "           PART=folder (test) LATEST=1 (setup) GAIN=0.02 (plan)"

setup: .venv/.ready ## create .venv (the other targets do so when needed); LATEST=1: the newest versions

.venv/.ready: pyproject.toml constraints.txt
	python3 -m venv .venv
	$(PYTHON) -m pip install -q --disable-pip-version-check $(if $(LATEST),,-c constraints.txt) -e '.[dev]'
	@touch $@

constraints: .venv/.ready ## write the newest compatible versions to constraints.txt; run the tests afterwards
	$(PYTHON) -m pip install -q --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[dev]'
	$(PYTHON) -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > constraints.txt

benchmark: .venv/.ready ## run or resume the profile's matrix and build its report (default: PROFILE=quick)
	@$(PYTHON) -m harness.benchmark $(SETTINGS)

sweep: .venv/.ready ## vary settings of MS-Mix: PARAM=delta|xi|alpha|heads|all (Figure 4)
	@$(PYTHON) -m sweeps.run $(if $(PARAM),param=$(PARAM)) $(SETTINGS)

tune: .venv/.ready ## tune METHOD=name on the validation split; the benchmark uses the result with tuned=var/tuned
	@$(PYTHON) -m sweeps.run $(if $(METHOD),tune=$(METHOD)) $(SETTINGS)

report: .venv/.ready ## rebuild figures, tables and page from the runs in MLflow, without training
	@$(PYTHON) -m reports.build $(NAMED) $(ARGS)

check: .venv/.ready ## check a method or backbone of your own: FILE=my_mix.py
	@$(PYTHON) -m harness.check $(if $(FILE),'$(FILE)')

plan: .venv/.ready ## say how many seeds a study needs to find GAIN=0.02 in test MAE, from the runs so far
	@$(PYTHON) -m reports.plan $(NAMED) 'gain=$(GAIN)' $(ARGS)

ui: .venv/.ready ## serve the MLflow UI on 127.0.0.1:5000 and print the link to the study
	@$(PYTHON) -m reports.ui $(NAMED) $(ARGS)

pictures: .venv/.ready ## renew the README's pictures from the report of the quick study (needs Chromium)
	@$(PYTHON) -m tests.support.pictures var/reports/quick

perf: .venv/.ready ## measure speed and check it against bounds; writes var/perf (BASE=rev: compare with a revision)
	@$(PYTHON) -m tests.perf $(if $(BASE),'--base=$(BASE)') $(ARGS)

gpu-check: .venv/.ready ## check that training on CUDA is correct, repeatable and fast, for all backbones and methods
	@$(PYTHON) -m tests.perf.gpu $(ARGS)

lint: .venv/.ready ## run ruff, mypy and the import contract
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-logo

test: $(if $(PART),.venv/.ready,lint) ## run linters and fast tests; PART=methods: one folder; ARGS=--update: regenerate files
	@$(PYTHON) -m pytest -m "not slow and not soak" -n 2 $(ARGS) $(if $(PART),'tests/$(PART)')

# Three processes, even on two cores: the tests spend a third of their time waiting for databases and nodes.
test-slow: .venv/.ready ## run the slow tests
	@$(PYTHON) -m pytest -m "slow and not soak" -n 3 --dist worksteal --durations=15

soak: .venv/.ready ## kill drivers and workers for MINUTES=15, fuzz file readers, run tests on new random examples
	@MINUTES=$(MINUTES) $(PYTHON) -m tests.end_to_end.soak
	@$(PYTHON) -m tests.fuzz
	@$(PYTHON) -m pytest -m "soak or not slow" -n 2 --hypothesis-profile=random --durations=15

mutants: .venv/.ready ## mutate the code that decides numbers, 400 times: do its own tests notice?
	@$(PYTHON) -m tests.mutants $(ARGS)
