"""Numbers that cannot be are refused by the name of their place."""

import json
from pathlib import Path

import pytest

from robustcls.core.errors import InputError
from robustcls.core.records import Evaluation

FILE = Path(__file__).resolve().parents[2] / "reports" / "cifar10_vgg16_quarter" / "pgd" / "evaluation.json"
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


def test_samples_that_are_missing_are_missed():
    whole = json.loads(TEXT)
    del whole["samples"][5:]
    with pytest.raises(InputError, match="its samples hold"):
        Evaluation.from_json(json.dumps(whole), "file.json")


def test_the_file_itself_is_taken():
    assert Evaluation.from_json(TEXT).robust.total == 1000
