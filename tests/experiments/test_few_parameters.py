"""experiments/few_parameters: its recipes, the split of the classes, and its table on known numbers."""

import tomllib

from experiments.few_parameters import run, table
from robustcls.training.config import TrainConfig
from tests.helpers import ROOT

HOME = ROOT / "experiments" / "few_parameters"


def recipe(name):
    return TrainConfig(**tomllib.loads((HOME / f"{name}.toml").read_text(encoding="utf-8")))


def test_the_recipes_differ_in_what_is_trained_and_in_its_rate_alone():
    adapted = [vars(recipe(name)) for name in run.TUNES]
    assert [one["tune"].partition("(")[0] for one in adapted] == list(run.TUNES)
    common = [{key: value for key, value in one.items() if key not in ("tune", "lr")} for one in adapted]
    assert all(one == common[0] for one in common)
    assert common[0]["adv"] == recipe("source").adv == "n_fgsm"
    assert recipe("standard").adv == "none"
    assert recipe("source").arch == recipe("standard").arch == common[0]["arch"]


def test_two_classes_are_the_target_and_the_others_the_source(tmp_path):
    run.split(run.digits(tmp_path / "digits"), tmp_path / "data", run.TINY_TARGET)
    for name, classes in (("target", {"8", "9"}), ("source", set("01234567"))):
        for split in ("train", "test"):
            assert {path.name for path in (tmp_path / "data" / name / split).iterdir()} == classes
    whole, parts = (len(list((tmp_path / one).rglob("*.png"))) for one in ("digits", "data"))
    assert whole == parts > 500


def row(tune, seed, robust, source="source", images=126):
    counts = {"clean": {"correct": 150, "total": 200}, "robust": {"correct": robust, "total": 200}}
    return {
        "source": source,
        "images": images,
        "tune": tune,
        "seed": seed,
        "trained": None if tune == "all" else 20,
        "checks": {},
        "device": "x",
    } | counts


def test_the_table_pairs_each_seed_with_all_weights():
    rows = [row("all", 0, 100), row("all", 1, 120), row("lora", 0, 90), row("lora", 1, 106)]
    rows += [row("head", 0, 2, source="standard"), row("all", 0, 160, images=1000)]
    costs = {"lora": {"parameters": 1000.0, "images_per_second": 100.0, "peak_memory_mb": 300.0}}
    lines = table.table(rows, costs).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == [
        "LoRA of rank 4, head", "all", "head, from a source that is not robust", "all"
    ]  # fmt: skip
    half = 12.706 * 2**0.5 / 2**0.5  # differences of -5 and -7 points
    assert f"49.0 (45.0, 53.0) | -6.0 [{-6 - half:+.1f}, {-6 + half:+.1f}] | 20 (2.00%) | 100 | 300" in lines[0]
    assert lines[2].count("-49.0") == 1
    assert lines[3].startswith("| 1,000 | all | 75.0 (75.0) | 80.0 (80.0) |  | all | - | -")


def test_what_a_dry_run_says_is_read(monkeypatch):
    said = (
        'tune = "lora"\n# parameters      147,738, 15,184 of them trained\n# speed           1,520 img/s, median of 3\n'
    )
    said += "# peak memory     719 MB\n"
    monkeypatch.setattr(run, "command", lambda *_, **__: said)
    assert run.measured([]) == {"parameters": 147738, "images_per_second": 1520, "peak_memory_mb": 719}
