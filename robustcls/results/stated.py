"""Statements of the owner about a model, which are added to its evaluation."""

from dataclasses import replace

from robustcls.core.errors import InputError
from robustcls.results.balance import two_classes_of
from robustcls.results.evaluation import Evaluation
from robustcls.results.severity import severity_of, tree_of


def with_stated(
    evaluation: Evaluation,
    *,
    positive: str | int | None = None,
    intended_use: str | None = None,
    license: str | None = None,
    tree: str | None = None,
) -> Evaluation:
    """Return the evaluation with the given statements about its model; None keeps the present value. Raises InputError.

    positive: the positive class of two classes. tree: a file with a tree of the classes.
    """
    if tree is not None and not evaluation.samples:
        raise InputError(f"`tree`: the evaluation of {evaluation.model.name} holds no samples: evaluate the model anew")
    return replace(
        evaluation,
        two_classes=evaluation.two_classes if positive is None else two_classes_of(evaluation, positive),
        intended_use=evaluation.intended_use if intended_use is None else intended_use,
        license=evaluation.license if license is None else license,
        severity=evaluation.severity
        if tree is None
        else severity_of(evaluation.samples, tree_of(tree, evaluation.model)),
    )
