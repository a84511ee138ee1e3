# make demo: train, attack, explain and report on the embedded digits. make test: the tests, except slow ones. make test-all: all
# tests. make check: ruff, mypy and import-linter. make tables: print the tables of README.md and experiments/README.md anew,
# from the files in reports/.
PYTHON ?= python3
BIN := .venv/bin

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -r s

.PHONY: demo test test-all check tables clean

demo: .venv/installed
	rm -rf runs/demo
	@echo "The demo: 4 steps, about 3 minutes on two cores."
	@echo "1 of 4: trains VGG16 on the digits without an attack, about 20 s"
	$(BIN)/robustcls train --adv none --arch "vgg16(width=0.25)" --val-attack "pgd(steps=5)" --out runs/demo/standard
	@echo "2 of 4: trains it on adversarial examples made by PGD, about 40 s"
	$(BIN)/robustcls train --adv "pgd(steps=5)" --arch "vgg16(width=0.25)" --val-attack "pgd(steps=5)" --out runs/demo/pgd
	@echo "3 of 4: exports the second model to an 8-bit ONNX file, about 10 s"
	$(BIN)/robustcls export --model runs/demo/pgd/ckpt.pt --quantize int8 --out runs/demo/int8
	@echo "4 of 4: attacks and explains all three and writes the report, about 30 s each; few samples, as the report says"
	$(BIN)/robustcls report --model runs/demo/standard/ckpt.pt --model runs/demo/pgd/ckpt.pt --model runs/demo/int8 \
		--attack fgsm --attack "pgd(steps=20)" --n 100 --examples 12 --maps-n 4 --curves-n 4 --minimum-n 6 \
		--corruptions-n 12 --out reports/demo/report.html

test: .venv/installed-dev
	$(PYTEST) -m "not slow"

test-all: .venv/installed-dev
	$(PYTEST)

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache

tables: .venv/installed
	$(BIN)/python -m experiments.readme

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "robustcls needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@echo "installs robustcls and PyTorch into .venv: takes minutes, depending on the network"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[onnx]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs/demo reports/demo
