"""What every section is given."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robustcls.results.balance import class_name
from robustcls.results.policy import Policy
from robustcls.results.records import Attack, Evaluation


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

    def why_not(self, model: int, section: str, usual: str) -> str:
        """Why a section has nothing to show of a model: as the evaluation says, else the usual reason."""
        return self.evaluations[model].not_run.get(section, usual)

    def class_name(self, model: int, label: int | None) -> str:
        """The name of a class, or its number where the evaluation holds none; None: the model named no class."""
        return class_name(self.evaluations[model], label)


def name_each(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """The models' names, numbered where two share one."""
    names = [evaluation.model.name or evaluation.model.arch or "model" for evaluation in evaluations]
    counts = Counter(names)
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names, 1))


def say_who_was_met(every: Sequence[Attack]) -> str:
    """Which samples the attacks met, as a sentence begun with "in the order shown"."""
    alone = [attack.alone is not None for attack in every]
    survivors = "on the samples that were still classified correctly"
    if not any(alone):
        return f"each {survivors}"
    who = "each" if all(alone) else "those with an accuracy alone"
    rest = "" if all(alone) else f", the others only {survivors}"
    return (
        f"{who} on every sample that is right on the clean image{rest}; met and broken count the samples that were "
        "still classified correctly"
    )


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
