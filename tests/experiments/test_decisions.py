"""The scripts of experiments/decisions, on tiny data."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from experiments.decisions import record, table
from experiments.decisions.trees import random_groups
from robustcls.core.class_tree import read_tree
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.results.records import Evaluation
from tests.helpers import ROOT
from tests.helpers.sample_evaluation import sample_evaluation

HOME = ROOT / "experiments" / "decisions"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_the_tree_is_one_of_cifar10():
    tree = read_tree(str(HOME / "tree.toml"), CIFAR10)
    names, of = tree.groups_at(1)
    assert dict(Counter(names[group] for group in of)) == {"animal": 6, "vehicle": 4}


def test_random_trees_have_the_same_sizes_and_every_class_once():
    found = [random_groups([6, 4], list(CIFAR10), seed) for seed in range(1, 21)]
    for groups in found:
        assert [len(group) for group in groups.values()] == [6, 4]
        assert sorted(name for group in groups.values() for name in group) == sorted(CIFAR10)
    assert len({tuple(sorted(groups["group 1"])) for groups in found}) > 10


def test_tables_of_what_was_measured(tmp_path):
    for seed, name in enumerate(("first", "second", "ensemble", "by_first", "by_second")):
        sample_evaluation(name, seed=seed // 3, n=60).save(tmp_path / f"{name}.json")
    rows = table.ensemble(record.results(tmp_path)).splitlines()
    assert len(rows) == 2 + 6
    both, by_first = (Evaluation.load(tmp_path / f"{name}.json") for name in ("ensemble", "by_first"))
    assert f"{by_first.robust.accuracy:.1%}" in rows[4]
    assert f"{both.robust.accuracy:.1%}" in rows[7]
    for seed in (0, 1):
        for place, marks in enumerate(("aligned", "absent", "flipped")):
            sample_evaluation(seed=seed + 2 * place, n=40).save(tmp_path / f"shortcut_standard_0.9_{seed}_{marks}.json")
    (row,) = table.shortcut(record.results(tmp_path)).splitlines()[2:]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    clean = [[sample_evaluation(seed=seed + 2 * place, n=40).clean.accuracy for seed in (0, 1)] for place in range(3)]
    assert cells[:5] == ["shortcut standard", "0.9", *(f"{50 * sum(pair):.1f}%" for pair in clean)]
    gaps = [clean[0][seed] - clean[2][seed] for seed in (0, 1)]
    assert cells[5] == f"{50 * sum(gaps):+.1f} ({100 * gaps[0]:+.1f}, {100 * gaps[1]:+.1f})"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("sh"), reason="needs a shell")
def test_the_step_coarse_on_almost_nothing(tmp_path):
    scripts = tmp_path / "bin"
    scripts.mkdir()
    for name, what in (("python", ""), ("robustcls", "-m tests.helpers.short_checks")):
        (scripts / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {what} "$@"\n', encoding="utf-8")
        (scripts / name).chmod(0o755)
    (tmp_path / "tree.toml").write_text('round = ["0", "6", "8", "9"]\nopen = ["1", "2", "3", "4", "5", "7"]\n')
    model = build("vgg16(width=0.05)", classes=list("0123456789"), input_size=(1, 8, 8))
    save_checkpoint(tmp_path / "a.pt", model, {"threat": {"norm": "linf", "eps": "0.1"}})
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "BASE": "digits(size=8)",
        "TREE": str(tmp_path / "tree.toml"), "N": "20", "TREES_N": "20", "TREES": "--trees 1", "DEVICE": "cpu",
        "ATTACK": "--attack fgsm",
    }  # fmt: skip

    def run(*words):
        done = subprocess.run(
            words, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr

    out = tmp_path / "out"
    run("sh", HOME / "run.sh", "none", out, "coarse", tmp_path / "a.pt")
    measured = record.results(out)
    assert len(table.coarse(measured).split("\n\n")[0].splitlines()) == 2 + 4
    assert len(table.trees(measured).splitlines()) == 2 + 3
    found = json.loads((out / "trees.json").read_text(encoding="utf-8"))
    assert [one["clean"] >= one["by_fine"] >= 0 for one in found["trees"]] == [True, True]
