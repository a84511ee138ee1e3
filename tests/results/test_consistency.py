"""Impossible numbers are refused, and the message names their position."""

import json
from dataclasses import asdict

import pytest

from robustcls.core.errors import InputError
from robustcls.results.records import Accuracy, Evaluation
from tests.helpers import ROOT

FILE = ROOT / "reports" / "cifar10_vgg16_quarter" / "pgd" / "evaluation.json"
TEXT = FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("robust.accuracy", 0.99, "robust.accuracy"),
        ("robust.accuracy", -1.5, "robust.accuracy"),
        ("robust.ci95", [0.95, 0.99], "robust.ci95"),
        ("robust.ci95", [0.1], "robust.ci95"),
        ("robust", {"correct": 900, "total": 1000, "accuracy": 0.9, "ci95": [0.85, 0.95]}, "robust: 900 of 1000"),
        ("clean.total", 40, "clean.correct"),
        ("samples.0.label", -1, "samples.0.label"),
        ("attacks.0.robust_accuracy", 7.0, "attacks.0.robust_accuracy"),
        ("attacks.0.broken", -3, "attacks.0.broken"),
        ("checks.0.status", "ok", "checks.0.status"),
        ("threat.eps", -1.0, "threat.eps"),
        ("curve.0.robust.total", 10**400, "curve.0.robust.total"),
        ("other_curves.0.points.0.robust.ci95", [0.5], "other_curves.0.points.0.robust.ci95"),
        ("corruptions.results.0.severity", 9, "corruptions.results.0.severity"),
        ("corruptions.mean", 7.0, "corruptions.mean"),
        ("calibration.adversarial.confidence", -1.5, "calibration.adversarial.confidence"),
        ("training.epochs.0.val_robust", 1e300, "training.epochs.0.val_robust"),
        ("gallery.examples.0.clean_top", [[1.0]], "gallery.examples.0.clean_top"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_its_place(path, value, place):
    whole = json.loads(TEXT)
    *home, last = path.split(".")
    inside = whole
    for key in home:
        inside = inside[int(key) if isinstance(inside, list) else key]
    inside[last] = value
    with pytest.raises(InputError, match="damaged") as caught:
        Evaluation.from_json(json.dumps(whole), "file.json")
    assert place in str(caught.value)


BROKEN = next(i for i, one in enumerate(json.loads(TEXT)["samples"]) if one["broken_by"])
STANDING = next(
    i for i, one in enumerate(json.loads(TEXT)["samples"]) if one["clean"] == one["adversarial"] == one["label"]
)
WRONG = next(i for i, one in enumerate(json.loads(TEXT)["samples"]) if one["clean"] != one["label"])


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (BROKEN, {"distance": 16 / 255}),
        (BROKEN, {"distance": 8 / 255 + 3e-6}),
        (BROKEN, {"distance": None}),
        (BROKEN, {"distance": -0.01}),
        (BROKEN, {"broken_by": "another"}),
        (BROKEN, {"fooled_by": []}),
        (BROKEN, {"fooled_by": ["another"]}),
        (BROKEN, {"index": json.loads(TEXT)["samples"][BROKEN + 1]["index"]}),
        (STANDING, {"distance": 0.01}),
        (STANDING, {"fooled_by": ["apgd_ce"]}),
        (STANDING, {"nearest": {"fmn": 1 / 255}}),
        (WRONG, {"broken_by": "apgd_ce", "distance": 0.01}),
        (WRONG, {"adversarial": 11}),
    ],
)
def test_a_sample_that_cannot_be_is_refused(place, changes):
    whole = json.loads(TEXT)
    whole["samples"][place] |= changes
    with pytest.raises(InputError, match="the file is damaged") as caught:
        Evaluation.from_json(json.dumps(whole), "file.json")
    assert "samples." in str(caught.value)


def test_a_broken_sample_that_has_its_own_label_is_refused():
    whole = json.loads(TEXT)
    whole["samples"][BROKEN]["adversarial"] = whole["samples"][BROKEN]["label"]
    with pytest.raises(InputError, match="robust: 257 of 1000, but its samples hold 258"):
        Evaluation.from_json(json.dumps(whole), "file.json")


def test_examples_of_a_larger_ball_are_refused():
    """This would happen if a run used the examples of another run with a larger radius."""
    whole = json.loads(TEXT)
    whole["threat"] |= {"eps": 1 / 255, "eps_text": "1/255"}
    with pytest.raises(InputError, match="is not inside the ball of eps 1/255"):
        Evaluation.from_json(json.dumps(whole), "file.json")


def test_a_minimum_norm_attack_may_find_the_nearest_outside_the_ball():
    whole = json.loads(TEXT)
    whole["samples"][STANDING]["nearest"] = {"fmn": 0.9, "ddn": None}
    assert Evaluation.from_json(json.dumps(whole)).robust.total == 1000


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("threat.eps_text", "1/255", "threat.eps_text"),
        ("threat.eps_text", "eight", "threat.eps_text"),
        ("curve.1.eps_text", "16/255", "curve.1.eps_text"),
        ("attacks.0.attacked", 3, "attacks.0.broken"),
        ("attacks.0.broken", 7, "attacks.0.broken"),
        ("attacks.0.robust_accuracy", 0.9, "attacks.0.robust_accuracy"),
    ],
)
def test_what_does_not_go_together_is_refused(path, value, words):
    whole = json.loads(TEXT)
    *home, last = path.split(".")
    inside = whole
    for key in home:
        inside = inside[int(key) if isinstance(inside, list) else key]
    inside[last] = value
    with pytest.raises(InputError, match="the file is damaged") as caught:
        Evaluation.from_json(json.dumps(whole), "file.json")
    assert words in str(caught.value)


def accuracy(correct, total=1000):
    return asdict(Accuracy.of(correct, total))


@pytest.mark.parametrize("place", [0, -1])
def test_a_curve_that_rises_is_refused(place):
    whole = json.loads(TEXT)
    whole["curve"][place]["robust"] = accuracy(0 if place == 0 else 900)
    with pytest.raises(InputError, match="at most that of a smaller radius"):
        Evaluation.from_json(json.dumps(whole), "file.json")


def test_every_evaluation_that_was_published_is_taken():
    taken = 0
    for file in sorted(FILE.parents[2].rglob("*.json")):
        if '"schema": "robustcls/evaluation/' in file.read_text(encoding="utf-8")[:200]:
            taken += bool(Evaluation.load(file).samples)
    assert taken > 50


def test_samples_that_are_missing_are_missed():
    whole = json.loads(TEXT)
    del whole["samples"][5:]
    with pytest.raises(InputError, match="its samples hold"):
        Evaluation.from_json(json.dumps(whole), "file.json")


def test_the_file_itself_is_taken():
    assert Evaluation.from_json(TEXT).robust.total == 1000


def test_what_would_not_load_again_is_not_written(tmp_path):
    whole = Evaluation.from_json(TEXT)
    whole.attacks[0].broken += 1
    with pytest.raises(InputError, match=r"attacks\.0\.broken"):
        whole.save(tmp_path / "e.json")
    whole = Evaluation.from_json(TEXT)
    whole.checks[0].status = "fine"
    with pytest.raises(InputError, match=r"checks\.0\.status"):
        whole.save(tmp_path / "e.json")
    assert list(tmp_path.iterdir()) == []
