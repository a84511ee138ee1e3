"""The smallest evaluation."""

from robustcls.results import records
from robustcls.results.records import Accuracy, Evaluation


def tiny_evaluation() -> Evaluation:
    return Evaluation(
        model=records.Model("m", "abc"),
        data=records.Data("digits", "test", 0, "def"),
        threat=records.Threat("linf", 0.1, "0.1"),
        clean=Accuracy.of(0, 0),
        robust=Accuracy.of(0, 0),
        attacks=[],
        checks=[],
        samples=[],
        provenance=records.Provenance("c", {}, 0, {}, "cpu", "", "2026-01-01", 0.0),
    )
