# Everything runs in .venv, which each target makes for itself: Python 3.11+ and make are enough.
PYTHON ?= python3
BIN := .venv/bin
SAMPLE ?= 100
SEED ?= 0
STAMP := .venv/.installed

.PHONY: demo quick test differential lint types docs fuzz mutants bench bench-all samples finetune torch patterns clean

demo: $(STAMP)  ## fold a trained model and compare its accuracy on held-out images
	$(BIN)/python sample_models/demo.py

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n 2

quick: $(STAMP)  ## what a change of the engine or of the house touches most, under a minute
	$(BIN)/python -m pytest -n 2 -q tests/test_architecture.py tests/test_api.py tests/folding/rules/test_rules.py \
		tests/folding/test_fold_conv.py tests/folding/test_fold_matrix.py tests/folding/test_options.py tests/tuning/test_moments.py

differential: $(STAMP)  ## all shapes and constants against onnxruntime, a minute
	BNFOLD_DIFFERENTIAL=1000000 $(BIN)/python -m pytest -n 2 tests/proof/reading

fuzz: $(STAMP)  ## random graphs, for about half an hour
	BNFOLD_EXAMPLES=100000 $(BIN)/python -m pytest tests/test_random_graphs.py

mutants: $(STAMP)  ## change the rules in small ways and see that tests notice; SAMPLE= for all
	$(BIN)/python tests/mutants.py $(if $(SAMPLE),--sample $(SAMPLE) --seed $(SEED))

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP)
	$(BIN)/mypy

docs: .venv-docs/.installed  ## the documentation as a site, in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

bench: .venv-bench/.installed  ## side by side with the peers: minutes, on an idle machine
	.venv-bench/bin/python benchmarks/run.py

bench-all: .venv-bench/.installed  ## with models of up to 2.5 GB: 20 GB of disk, an hour
	.venv-bench/bin/python benchmarks/run.py --all

patterns: .venv-bench/.installed  ## what folds, with bnfold and with the peers
	.venv-bench/bin/python benchmarks/patterns.py

finetune: .venv-samples/.installed  ## the example with PyTorch: freeze, learn, assign, fold
	.venv-samples/bin/python examples/finetune_frozen_bn.py

torch: .venv-samples/.installed  ## the tests of bnfold.torch, which need PyTorch
	.venv-samples/bin/python -m pytest tests/torch/test_torch.py

samples: .venv-samples/.installed  ## train and export sample_models/ again
	.venv-samples/bin/python sample_models/build.py

clean:
	rm -rf .venv .venv-bench .venv-docs .venv-samples benchmarks/work site build dist

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("bnfold needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

.venv-bench/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-bench/bin/python -m pip install --quiet --editable . --group bench
	touch $@

.venv-samples/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-samples
	.venv-samples/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-samples/bin/python -m pip install --quiet --editable . --group samples
	touch $@

.venv-docs/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-docs/bin/python -m pip install --quiet --group docs
	touch $@
