"""What every section is given."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robustcls.core.policy import Policy
from robustcls.core.records import Evaluation, Sample


@dataclass(frozen=True)
class Context:
    """The evaluations of a report, scrubbed, and what was asked of it."""

    evaluations: tuple[Evaluation, ...]
    names: tuple[str, ...]  # of the models, each once
    policy: Policy
    mismatch: str  # why the evaluations cannot be compared; "" where they can, or where there is one
    redact_images: bool = False
    quality: int | None = None  # of WebP, where PNG would make the file too large
    arrays_embedded: bool = True

    @property
    def several(self) -> bool:
        return len(self.evaluations) > 1

    @property
    def comparable(self) -> bool:
        return self.several and not self.mismatch

    def class_name(self, model: int, label: int) -> str:
        """The name of a class, or its number where the evaluation holds none."""
        classes = self.evaluations[model].model.classes
        return classes[label] if 0 <= label < len(classes) else f"class {label}"


def name_each(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """The models' names, numbered where two share one."""
    names = [evaluation.model.name or evaluation.model.arch or "model" for evaluation in evaluations]
    counts = Counter(names)
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names, 1))


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


def look_up(evaluation: Evaluation, path: str) -> Any:
    """The value at a path such as `attacks.0.options.steps`; a dot inside a key is written as two characters, \\\\ and dot."""
    value: Any = evaluation
    for part in path.replace("\\.", "\0").split("."):
        key = part.replace("\0", ".")
        if dataclasses.is_dataclass(value):
            value = getattr(value, key)
        else:
            value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def _attacks(evaluation: Evaluation) -> list[tuple[str, dict[str, Any]]]:
    return [(attack.name, attack.options) for attack in evaluation.attacks]
