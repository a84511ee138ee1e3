"""Prints what export, quantisation and pruning cost in accuracy, from the evaluations in reports/artefacts.

python experiments/artefacts/table.py
"""

from pathlib import Path

from robustcls import Evaluation
from robustcls.cli.console import markdown, with_interval
from robustcls.results.statistics import paired_difference

HOME = Path(__file__).resolve().parents[2] / "reports" / "artefacts"
ROWS = {
    "pgd": "checkpoint", "int8": "its 8-bit file", "half": "half the channels, trained again",
    "half8": "8-bit file of the pruned network", "once": "half the channels, not trained again",
}  # fmt: skip


def main() -> None:
    first = Evaluation.load(HOME / "pgd.json")
    rows = []
    for name, what in ROWS.items():
        found = Evaluation.load(HOME / f"{name}.json")
        assert [one.index for one in found.samples] == [one.index for one in first.samples]
        rows.append(
            [f"[{what}](../reports/artefacts/{name}.json)", with_interval(found.clean), with_interval(found.robust),
             "" if name == "pgd" else difference(first, found), *union(found)]
        )  # fmt: skip
    print(
        markdown(
            [
                "Model",
                "Clean",
                "Robust, `fast`",
                "Difference to the checkpoint, points",
                "Union of attacks",
                "Difference to its source, points",
            ],
            rows,
        )
    )


def difference(before: Evaluation, after: Evaluation) -> str:
    """Return the difference in robust accuracy, in points, with its interval; paired by sample."""
    value, (low, high) = paired_difference(
        *([one.broken_by is None and one.clean == one.label for one in each.samples] for each in (before, after))
    )
    return points(value, low, high)


def union(found: Evaluation) -> list[str]:
    if found.artefact is None or found.artefact.union is None or found.artefact.difference is None:
        return ["", ""]
    return [with_interval(found.artefact.union), points(found.artefact.difference, *found.artefact.ci95)]


def points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


if __name__ == "__main__":
    main()
