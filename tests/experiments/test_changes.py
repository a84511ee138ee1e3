"""Studies of a recipe: their changes, and their table on known numbers."""

import argparse
from dataclasses import replace

import pytest

from experiments.card_proxy.run import STUDY as CARD
from experiments.fashion_mnist.run import STUDY as FASHION
from experiments.fifteen_minutes.run import STUDY as FIFTEEN
from robustcls.data import recipe, tuned_recipe
from robustcls.training.config import TrainConfig

ROWS = [(study, name) for study in (FIFTEEN, CARD, FASHION) for name in study.changes]


def flags(study, name, **given):
    options = study.options(name, argparse.Namespace(**{"data": "cifar10", "epochs": None, "tiny": False} | given))
    return dict(one.removeprefix("--").split("=", 1) for one in options)


@pytest.mark.parametrize(("study", "name"), ROWS, ids=[f"{study.name}-{name}" for study, name in ROWS])
def test_each_row_is_the_base_recipe_with_one_change(study, name):
    base, changed = flags(study, "base"), flags(study, name)
    config = TrainConfig(**{key.replace("-", "_"): parsed(value) for key, value in changed.items()})
    assert config.is_adversarial
    differ = {key for key in base.keys() | changed.keys() if base.get(key) != changed.get(key)}
    assert differ - {"epochs"} == {key.replace("_", "-") for key in study.changes[name].options}


def test_the_best_row_is_the_tuned_recipe():
    best = flags(FIFTEEN, "best")
    assert {key: str(value) for key, value in tuned_recipe("cifar10").items()} == {
        key: best[key.replace("_", "-")] for key in tuned_recipe("cifar10")
    }


def test_the_rows_of_fashion_mnist_are_its_recipe_and_the_tuned_one():
    tuned = tuned_recipe("cifar10") | {"train_eps": "0.15"}
    assert {key: FASHION.changes["tuned"].options[key] for key in tuned} == tuned
    assert FASHION.base.items() >= (recipe("fashion_mnist").items() - {("norm", "linf"), ("epochs", 30)})
    assert FASHION._parser().parse_args([]).data == "fashion_mnist"


def parsed(value):
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def test_fewer_epochs_shorten_each_row_in_proportion():
    study = replace(FIFTEEN, changes={**FIFTEEN.changes, "silu": replace(FIFTEEN.changes["silu"], epochs=12)})
    whole = int(flags(study, "base")["epochs"])
    assert flags(study, "base", epochs=8)["epochs"] == "8"
    assert flags(study, "silu")["epochs"] == "12"
    assert flags(study, "silu", epochs=2 * whole)["epochs"] == "24"
    assert flags(study, "silu", tiny=True)["epochs"] == "4"
    assert flags(study, "silu", tiny=True, epochs=2)["epochs"] == "2"


def test_the_table_pairs_the_seeds():
    def row(name, seed, robust):
        counts = {"clean": {"correct": 600, "total": 1000}, "robust": {"correct": robust, "total": 1000}}
        return {"row": name, "seed": seed, "epochs": {"run": 24}} | counts

    rows = [row("base", 0, 350), row("base", 1, 360), row("silu", 0, 370), row("silu", 1, 390), row("lr_0.2", 2, 300)]
    lines = FIFTEEN.table({"rows": rows, "costs": {"base": 1000, "silu": 900}}).splitlines()[2:]
    assert lines == [
        "| `base.toml` | 24 | 1.00 | 60.0 (60.0, 60.0) | 35.5 (35.0, 36.0) |  |",
        "| SiLU | 24 | 0.90 | 60.0 (60.0, 60.0) | 38.0 (37.0, 39.0) | +2.5 [-3.9, +8.9] |",
        "| learning rate 0.2 | 24 |  | 60.0 (60.0) | 30.0 (30.0) |  |",
    ]


def test_the_table_shows_overfitting_where_a_study_is_about_it():
    row = {"row": "ema", "seed": 0, "epochs": {"run": 150}, "below_best": 0.125, "robust_gap": 0.5}
    row |= {name: {"correct": 500, "total": 1000} for name in ("clean", "robust")}
    head, _, line = CARD.table({"rows": [row]}).splitlines()
    assert head.endswith("| Best minus last epoch | Training minus validation |")
    assert line.endswith("|  | 12.5 (12.5) | 50.0 (50.0) |")
