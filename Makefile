# Everything a newcomer needs: `make report`, `make serve`, `make test`, `make lab`. The rest is for maintainers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help report serve test lab docs notebooks constraints release clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# One environment, installed once: redone only when what it is made of changes.
$(INSTALLED): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ride_duration needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: on Debian, apt-get install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

report: $(INSTALLED)  ## the main job on the demo city: train, validate, write the page
	@$(BIN)/ride-duration report 2023-02 --fleet demo

serve: $(INSTALLED)  ## the service on the demo city, at http://127.0.0.1:8000; trains first where nothing answers yet
	@$(BIN)/ride-duration predict --from 7 --to 12 --fleet demo >/dev/null 2>&1 || \
	  $(BIN)/ride-duration train --train 2023-01 --val 2023-02 --fleet demo --models boosted,boosted_metered --no-track
	@exec $(BIN)/ride-duration serve --fleet demo $(SERVE_OPTIONS)

test: $(INSTALLED)  ## every test; real-data tests run where a mirror of TLC's files is found
	@# where the sparse solver stops depends on the processor's rounding: published figures are those of these kernels, of which any x86 has one
	@$(if $(filter x86_64,$(shell uname -m)),OPENBLAS_CORETYPE=$(if $(shell grep -m1 -o avx512f /proc/cpuinfo 2>/dev/null),SkylakeX,Prescott)) $(BIN)/python -m pytest

lab: $(INSTALLED)  ## JupyterLab, with notebooks cleaned on save
	@$(BIN)/nbdev_install_hooks
	@$(BIN)/jupyter lab --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_OPTIONS)

docs: $(INSTALLED)  ## the documentation as a site, offline: _docs/index.html
	@$(BIN)/python tools/documentation.py

notebooks: $(INSTALLED)  ## run the notebooks again and keep what they show
	@$(BIN)/python tests/refresh_notebooks.py

constraints: $(INSTALLED)  ## write down the versions installed now
	@{ echo '# Every version this release was tested with; written by make constraints.'; $(BIN)/python -m pip freeze --exclude-editable; } > constraints.txt

release: $(INSTALLED)  ## tries a release in a clone, VERSION=x.y.z; GO=1 keeps it
	@$(BIN)/python tools/release.py $(VERSION) $(if $(filter 1,$(GO)),--go) $(RELEASE_OPTIONS)

clean:  ## take the environment and the caches away
	rm -rf $(VENV) _docs _proc build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
