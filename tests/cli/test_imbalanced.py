"""Imbalanced classes: what accuracy estimates, and what is shown beside it, in every output."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustcls.results.balance import balanced_of
from robustcls.results.records import Evaluation
from tests.helpers.judged_by_hand import make_evaluation
from tests.helpers.report_text import shown

MODEL = '''
import torch
from torch import nn

class Majority(nn.Module):
    """Always answers class 0."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1e-3))

    def forward(self, x):
        z = self.scale * x.mean((1, 2, 3))[:, None]
        return torch.cat([z + 5, z - 5], 1)
'''
HEALTHY, ILL = 95, 5


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return a folder with 95 healthy and 5 ill test images, as in screening."""
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (HEALTHY, 4, 4, 3), dtype=np.uint8)
    for split, counts in (("train", (2, 2)), ("test", (HEALTHY, ILL))):
        for name, count in zip(("healthy", "ill"), counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(pixels[i]).save(folder / split / name / f"{i:03d}.png")
    return folder


@pytest.fixture
def judge(cli, photos, tmp_path):
    """Return a function that attacks a model which always predicts the frequent class; it returns the result of the command
    and the evaluation."""
    (tmp_path / "majority.py").write_text(MODEL, encoding="utf-8")

    def run(*arguments):
        result = cli(
            "attack", "--model", "majority:Majority", "--data", f"folder:{photos}", "--eps", "1/255", "--attack", "noise",
            "--out", "e.json", *arguments,
        )  # fmt: skip
        assert result.status == 0, result.err
        return result, Evaluation.load("e.json")

    return run


@pytest.mark.parametrize("n", ["all", 60, 40, 20])
def test_the_headline_estimates_the_split_and_balanced_accuracy_stands_beside_it(judge, n):
    result, one = judge("--n", n)
    assert abs(one.clean.accuracy - 0.95) <= 1 / one.data.n
    assert one.balanced.clean.value == one.balanced.robust.value == 0.5
    assert one.data.split_counts == [HEALTHY, ILL]
    lines = {line.partition("  ")[0]: line.split() for line in result.out.splitlines()}
    assert lines["balanced accuracy".capitalize()][2] == "50.0%"
    assert lines["Sensitivity (ill)"][2] == "0.0%"
    assert lines["Specificity (healthy)"][2] == "100.0%"
    assert lines["ROC-AUC"][1] == "0.500"
    text = " ".join(result.out.split())
    assert ("accuracy on the split itself" if n == "all" else "accuracy on the whole split") in text
    ill = sum(sample.label for sample in one.samples)
    assert f"samples by class: healthy {len(one.samples) - ill}, ill {ill}" in text
    assert max(map(len, result.out.splitlines())) <= 80


def test_a_class_without_samples_is_named(judge):
    result, one = judge("--n", 9)
    assert {sample.label for sample in one.samples} == {0}
    assert "no sample of ill (5 in the split)" in " ".join(result.out.split())
    assert one.two_classes.clean.sensitivity is None
    assert one.two_classes.clean.auc is None


def test_balanced_accuracy_without_a_class_is_marked_wherever_it_stands(judge, cli):
    result, one = judge("--n", 9)
    one.save("f.json")
    assert (one.balanced.num_classes, one.balanced.of_classes) == (1, 2)
    assert cli("report", "e.json", "--model-card", "--out", "r.html").status == 0
    assert cli("report", "e.json", "f.json", "--out", "two.html").status == 0
    pair, markdown = (cli("compare", "e.json", "f.json", *more).out for more in ((), ("--markdown",)))
    card = Path("MODEL_CARD.md").read_text(encoding="utf-8")
    for text in (shown("r.html"), shown("two.html"), card, markdown):
        assert "Balanced accuracy over 1 of 2 classes" in text
    for text in (result.out, pair):
        rows = text.splitlines()
        at = next(i for i, row in enumerate(rows) if "Balanced accuracy" in row)
        assert rows[at + 1] == "  over 1 of 2 classes"
        assert "no sample of ill (5 in the split)" in text


@pytest.mark.parametrize(
    ("policy", "status", "words"),
    [
        ("min_balanced_clean = 0.6", 3, "over 1 of 2 classes: no sample of ill (5 in the split)"),
        ("min_balanced_robust = 0.99", 3, "over 1 of 2 classes: no sample of ill (5 in the split)"),
        ("min_sensitivity = 0.5", 3, "not measured: no sample of ill"),
    ],
)
def test_a_gate_says_which_class_it_knows_nothing_of(policy, status, words, judge, cli):
    judge("--n", 9)
    Path("p.toml").write_text(policy, encoding="utf-8")
    result = cli("gate", "e.json", "--policy", "p.toml", "--junit", "g.xml")
    assert result.status == status
    assert words in " ".join(result.out.split())
    assert words in Path("g.xml").read_text(encoding="utf-8")


def test_a_sensitivity_is_not_set_beside_that_of_another_class(judge, cli):
    _, one = judge("--n", 40)
    one.save("f.json")
    judge("--n", 40, "--positive", "healthy")
    assert cli("report", "e.json", "f.json", "--out", "two.html").status == 0
    text = shown("two.html")
    for name in ("Sensitivity (healthy)", "Sensitivity (ill)"):
        assert f"{name}, clean" in text


def test_the_positive_class_can_be_chosen_when_measured_and_when_rendered(judge, cli):
    _, one = judge("--n", 40)
    assert one.two_classes.positive == 1
    before = Path("e.json").read_bytes()
    assert cli("report", "e.json", "--positive", "healthy", "--out", "r.html").status == 0
    assert "Sensitivity (healthy)" in shown("r.html")
    assert "Specificity (ill)" in shown("r.html")
    assert Path("e.json").read_bytes() == before
    _, chosen = judge("--n", 40, "--positive", "healthy")
    assert (chosen.two_classes.positive, chosen.two_classes.clean.sensitivity.accuracy) == (0, 1.0)


def test_report_card_and_comparison_name_them(judge, cli):
    judge("--n", 40)
    Evaluation.load("e.json").save("f.json")
    assert cli("report", "e.json", "--model-card", "--out", "r.html").status == 0
    assert cli("report", "e.json", "f.json", "--out", "two.html").status == 0
    card = Path("MODEL_CARD.md").read_text(encoding="utf-8")
    pair = cli("compare", "e.json", "f.json")
    assert pair.status == 0, pair.err
    assert max(map(len, pair.out.splitlines())) <= 80
    for text in (shown("r.html"), shown("two.html"), card, pair.out):
        assert "Balanced accuracy" in text
        assert "50.0%" in text
        assert "Sensitivity (ill)" in text
        assert "accuracy on the whole split" in " ".join(text.split())
    for text in (shown("r.html"), card):
        assert "healthy 38, ill 2" in text


@pytest.mark.parametrize(
    ("policy", "status", "words"),
    [
        ("min_clean = 0.75", 0, ["met     clean accuracy at least 75.0%"]),
        ("min_clean = 0.75\nmin_balanced_clean = 0.8", 1, ["met     clean", "failed  clean balanced accuracy at least 80.0%"]),
        ("min_balanced_robust = 0.5", 3, ["open    robust balanced accuracy"]),
        ("min_sensitivity = 0.6", 1, ["failed  sensitivity at least 60.0%: ill 0.0%"]),
        ('min_sensitivity = 0.6\npositive = "healthy"', 0, ["met     sensitivity at least 60.0%: healthy 100.0%"]),
        ("min_robust_sensitivity = 0.6", 1, ["failed  sensitivity under attack"]),
        ("min_specificity = 0.6\nmin_robust_specificity = 0.6", 0, ["met     specificity at", "specificity under attack"]),
        ('min_sensitivity = 0.6\npositive = "sick"', 2, []),
    ],
)  # fmt: skip
def test_a_policy_can_ask_for_them(policy, status, words, judge, cli):
    judge("--n", "all")
    Path("p.toml").write_text(policy, encoding="utf-8")
    result = cli("gate", "e.json", "--policy", "p.toml")
    assert result.status == status, result.out + result.err
    assert [word for word in words if word not in result.out] == []


def test_an_evaluation_made_earlier_says_no_more_than_it_knows(cli, tmp_path):
    one = make_evaluation(90, 50)
    one.model.classes = [str(i) for i in range(10)]
    one.data = dataclasses.replace(
        one.data,
        available=5000,
        sampling="the first samples of each class in file order, taken in turn over the classes",
    )
    one.samples = [sample for sample in one.samples if sample.label or sample.index < 60]  # unequal class sizes
    one.clean, one.robust = (
        type(one.clean).of(sum(s.label == s.clean for s in one.samples), len(one.samples)),
        type(one.robust).of(sum(s.label == s.clean == s.adversarial for s in one.samples), len(one.samples)),
    )
    one.attacks[0] = dataclasses.replace(
        one.attacks[0], attacked=one.clean.correct, broken=one.clean.correct - one.robust.correct,
        robust_accuracy=one.robust.accuracy,
    )  # fmt: skip
    one.save("e.json")
    whole = json.loads(Path("e.json").read_text(encoding="utf-8"))
    for key in ("balanced", "two_classes", "license"):
        del whole[key]
    for key in ("estimates", "split_counts"):
        del whole["data"][key]
    Path("old.json").write_text(json.dumps(whole), encoding="utf-8")
    before = Path("old.json").read_bytes()
    for command in (
        ("report", "old.json", "--out", "r.html"),
        ("compare", "old.json", "old.json"),
        ("gate", "old.json", "--min-clean", 0.5),
    ):
        assert cli(*command).status == 0
    text = shown("r.html")
    assert "not on the split: the classes were taken in turn" in text
    assert "accuracy on the whole split" not in text
    assert f"{balanced_of(Evaluation.load('old.json')).clean.value:.1%}" in text
    assert Path("old.json").read_bytes() == before
