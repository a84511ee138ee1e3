"""When two evaluations may be compared, and on what."""

from robustcls.core.records import Evaluation


def why_not_comparable(a: Evaluation, b: Evaluation) -> str:
    """The reason why the numbers of two evaluations do not mean the same; empty where they do."""
    if a.data.sha256 != b.data.sha256 or [s.index for s in a.samples] != [s.index for s in b.samples]:
        return "they judge different samples"
    if (a.threat.norm, a.threat.eps) != (b.threat.norm, b.threat.eps):
        return f"one is {a.threat.norm} {a.threat.eps_text}, the other {b.threat.norm} {b.threat.eps_text}"
    if [(x.name, x.options) for x in a.attacks] != [(x.name, x.options) for x in b.attacks]:
        return "they were attacked differently"
    return ""


def clean_right(evaluation: Evaluation) -> list[bool]:
    """Whether each sample is right on the clean image."""
    return [sample.clean == sample.label for sample in evaluation.samples]


def robust_right(evaluation: Evaluation) -> list[bool]:
    """Whether each sample is right on the clean image and no attack broke it."""
    return [sample.clean == sample.label and sample.broken_by is None for sample in evaluation.samples]
