PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed

# DVC starts stages with the `python` it finds first.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup samples demo report test test-all soak benchmarks small gpu full plots clean clean-states

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 15

setup: $(READY) ## make .venv with the exact versions of requirements.lock (PYTHON=... chooses the interpreter)
	@if test ! -e .git; then dvc config --local core.no_scm true; \
	  elif grep -qs no_scm .dvc/config.local; then dvc config --local --unset core.no_scm; fi

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: Python 3.10 or newer is needed, which $(PYTHON) is not; name one: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.lock
	@touch $@

samples: setup ## fetch two shared checkpoints and draw from them: half a minute
	dvc pull small/dvc.yaml:train@celeba small/dvc.yaml:train@cifar10_classes
	python -m tools.sample celeba --scale small --steps 10 --autoguidance 1.5 --out samples/faces.png
	python -m tools.sample cifar10_classes --scale small --steps 10 --autoguidance 1.5 --out samples/classes.png
	@echo "The pictures: samples/faces.png, samples/classes.png"

demo: setup ## train and sample at demo scale: minutes on two CPU cores, no network
	@echo "Three models are trained and drawn from: about ten minutes on two cores. Stopped, the same command goes on."
	python -m tools.lanes
	python -m tools.report
	@echo "Now open report.html: samples, curves and measures on one page (also in metrics/demo/*/*.png)"

report: setup ## write report.html: measures, curves and pictures of the demo on one page
	python -m tools.report

test: setup ## lint, types and the fast tests
	ruff check .
	mypy
	python -m pytest -n logical --dist loadfile --no-loadscope-reorder

test-all: setup ## lint, types and all tests, the slow ones too
	ruff check .
	mypy
	python -m pytest -m "slow or not slow"

soak: setup ## kill every stage and dvc again and again: no bit may change (minutes; part of test-all)
	python -m pytest -m slow tests/test_soak.py tests/test_soak_stages.py

benchmarks: setup ## install diffusers and denoising-diffusion-pytorch, and time ours beside them (see benchmarks/README.md)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -e '.[benchmarks]'
	python -m benchmarks.training
	python -m benchmarks.sampling

small: setup ## real data at a size for two CPU cores: up to two hours a recipe (see small/params.yaml)
	python -m tools.lanes --scale small

gpu: setup ## real data, minutes on a data-centre GPU: the checkpoints to share (see gpu/params.yaml)
	cd gpu && dvc repro

full: setup full/dvc.yaml ## the published settings: days, on a GPU (see full/params.yaml)
	cd full && dvc repro

full/dvc.yaml: dvc.yaml
	sed -i.bak '/^\/full$$/d' .dvcignore && rm .dvcignore.bak
	cp dvc.yaml full/dvc.yaml

plots: setup ## write all curves and pictures into one page
	dvc plots show

clean: ## remove caches and the page of plots; keeps data, models, results and training states
	rm -rf dvc_plots small/dvc_plots gpu/dvc_plots full/dvc_plots .mypy_cache .pytest_cache .ruff_cache
	find src stages tools tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-states: setup ## remove the training states in work/ that belong to no present settings, as old sweeps leave them
	python -m tools.clean
