# make demo: train, attack, explain and report on the embedded digits. make test: the tests. make check: ruff and mypy.
# make tables: those of experiments/README.md, printed anew from reports/.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check tables clean

demo: .venv/installed
	rm -rf runs/demo
	$(BIN)/robustcls train --adv none --arch "vgg16(width=0.25)" --val-attack "pgd(steps=5)" --out runs/demo/standard
	$(BIN)/robustcls train --adv "pgd(steps=5)" --arch "vgg16(width=0.25)" --val-attack "pgd(steps=5)" --out runs/demo/pgd
	$(BIN)/robustcls report --model runs/demo/standard/ckpt.pt --model runs/demo/pgd/ckpt.pt \
		--attack fgsm --attack "pgd(steps=20)" --n 300 --examples 16 --maps-n 10 --curves-n 20 --minimum-n 20 \
		--corruptions-n 50 --out reports/demo/report.html

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -r s

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables: .venv/installed
	$(BIN)/python experiments/readme.py

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "robustcls needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs/demo reports/demo
