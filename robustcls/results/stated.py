"""What its owner states of a model."""

from dataclasses import replace

from robustcls.results.balance import two_classes_of
from robustcls.results.evaluation import Evaluation


def with_stated(
    evaluation: Evaluation,
    *,
    positive: str | int | None = None,
    intended_use: str | None = None,
    license: str | None = None,
) -> Evaluation:
    """The evaluation with what is stated of its model; what is None stays. Raises InputError.

    positive: of two classes, the one that sensitivity is about.
    """
    return replace(
        evaluation,
        two_classes=evaluation.two_classes if positive is None else two_classes_of(evaluation, positive),
        intended_use=evaluation.intended_use if intended_use is None else intended_use,
        license=evaluation.license if license is None else license,
    )
