"""When evaluations may be compared, and on what."""

from collections.abc import Sequence
from typing import Any

from robustcls.core.records import Evaluation, Sample


def find_mismatch(evaluations: Sequence[Evaluation]) -> str:
    """The first reason why the evaluations do not answer the same question; "" where they do."""
    first = evaluations[0]
    for other in evaluations[1:]:
        if first.data.sha256 != other.data.sha256:
            return "the data differ (SHA-256 of pixels and labels)"
        if (first.threat.norm, first.threat.eps) != (other.threat.norm, other.threat.eps):
            ours, theirs = (f"{one.threat.norm} {one.threat.eps_text}" for one in (first, other))
            return f"the threat models differ ({ours} and {theirs})"
        if _attacks(first) != _attacks(other):
            return "the attacks or their options differ"
        if [(one.index, one.label) for one in first.samples] != [(one.index, one.label) for one in other.samples]:
            return "the sample indices or labels differ"
        if not first.samples:
            return "the evaluations hold no samples to pair"
    return ""


def was_right(sample: Sample) -> bool:
    return sample.clean == sample.label


def held(sample: Sample) -> bool:
    """Right on the clean image and on the worst that the attacks found."""
    return sample.clean == sample.label == sample.adversarial


def _attacks(evaluation: Evaluation) -> list[tuple[str, dict[str, Any]]]:
    return [(attack.name, attack.options) for attack in evaluation.attacks]
