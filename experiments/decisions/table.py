"""Prints the tables of the decision experiments, from reports/decisions/results.json or another file that record.py wrote.

python -m experiments.decisions.table ensemble|coarse|trees|shortcut [results.json]
"""

import statistics
import sys
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, flags, read
from robustcls.cli.console import markdown, with_interval
from robustcls.results.accuracy import Accuracy
from robustcls.results.statistics import paired_difference

RESULTS = REPORTS / "decisions" / "results.json"
MARKS = ("aligned", "absent", "flipped")


def ensemble(found: dict[str, Any]) -> str:
    first, second, both, by_first, by_second = rows_of(found, "first", "second", "ensemble", "by_first", "by_second")
    one_by_one = [one and other for one, other in zip(robust(by_first), robust(by_second), strict=True)]
    clean = share(both["clean"])
    rows = [
        ["first member", share(first["clean"]), share(first["robust"]), ""],
        ["second member", share(second["clean"]), share(second["robust"]), ""],
        ["ensemble, first member attacked", clean, share(by_first["robust"]), ""],
        ["ensemble, second member attacked", clean, share(by_second["robust"]), ""],
        ["ensemble, members attacked one by one", clean, counted(one_by_one), ""],
        ["ensemble, attacked as one", clean, share(both["robust"]), difference(one_by_one, robust(both))],
    ]  # fmt: skip
    return markdown(["Attacked", "Clean", measure(both), "To members one by one, points"], rows)


def coarse(found: dict[str, Any]) -> str:
    fine, by_coarse, by_fine = rows_of(found, "fine", "coarse", "coarse_by_fine")
    severity, kept = fine["severity"], fine["samples"]
    # The label's digit is that of its class, and the group is the output that the class is mapped to.
    group = {str(label): by_coarse["outputs"][name] for label, name in enumerate(fine["classes"])}
    naive = [
        group.get(clean) == group[label] and group.get(attacked) == group[label]
        for label, clean, attacked in zip(kept["label"], kept["clean"], kept["adversarial"], strict=True)
    ]  # fmt: skip
    clean, meant = share(by_coarse["clean"]), robust(by_coarse)
    rows = [
        ["classes", "classes", share(fine["clean"]), share(fine["robust"]), ""],
        ["groups", "classes, predictions grouped", clean, counted(naive), difference(naive, meant)],
        ["groups", "classes, each attack judged by groups (gradient attacks alone)", clean, share(by_fine["robust"]),
         difference(robust(by_fine), meant)],
        ["groups", "groups", clean, share(by_coarse["robust"]), ""],
    ]  # fmt: skip
    shown = markdown(["Accuracy by", "Attack on", "Clean", measure(fine), "To an attack on groups, points"], rows)
    mistakes = [
        [name, f"{sum(one['by_distance']):,}", f"{one['mean']:.2f}", "[{:.2f}, {:.2f}]".format(*one["ci95"]),
         f"{one['chance']:.2f}", share(one["apart"])]
        for name, one in (("clean", severity["clean"]), ("under attack", severity["robust"])) if one["mean"] is not None
    ]  # fmt: skip
    heads = ["Mistakes", "n", f"Edges up, of {severity['height']}", "95%", "By chance", "Between animals and vehicles"]
    return f"{shown}\n\n{markdown(heads, mistakes)}"


def trees(found: dict[str, Any]) -> str:
    found = found["trees"]
    own, *others = (
        [100 * one[name] / found["n"] for name in ("clean", "by_fine", "by_coarse")] for one in found["trees"]
    )
    columns = list(zip(*others, strict=True))
    overestimates = [one[1] - one[2] for one in others]
    rows = [
        ["the tree", *(f"{share:.1f}%" for share in own), f"{own[1] - own[2]:+.1f}"],
        [f"{len(others)} random trees, mean", *(f"{statistics.mean(one):.1f}%" for one in columns),
         f"{statistics.mean(overestimates):+.1f}"],
        ["lowest and highest", *(f"{min(one):.1f}% to {max(one):.1f}%" for one in columns),
         f"{min(overestimates):+.1f} to {max(overestimates):+.1f}"],
    ]  # fmt: skip
    return markdown(
        [
            f"Groups, n = {found['n']:,}",
            "Clean",
            "Under an attack on classes",
            "Under an attack on groups",
            "Overestimated by, points",
        ],
        rows,
    )


def shortcut(found: dict[str, Any]) -> str:
    """Return the mean accuracy of each recipe and strength over the seeds with all three marks, and the gap of each seed."""
    of = {(one["row"], one["strength"], one["seed"], one["marks"]): one for one in found["rows"] if "marks" in one}
    rows = []
    for row, strength in sorted({key[:2] for key in of}, reverse=True):
        seeds = [
            seed
            for seed in sorted({key[2] for key in of})
            if all((row, strength, seed, marks) in of for marks in MARKS)
        ]
        if not seeds:
            continue
        cells = []
        for part in ("clean", "robust"):
            counts = {marks: [of[row, strength, seed, marks][part] for seed in seeds] for marks in MARKS}
            means = {marks: [one["correct"] / one["total"] for one in seen] for marks, seen in counts.items()}
            gaps = [a - f for a, f in zip(means["aligned"], means["flipped"], strict=True)]
            cells += [f"{100 * statistics.mean(found):.1f}%" for found in means.values()]
            cells.append(f"{100 * statistics.mean(gaps):+.1f} ({', '.join(f'{100 * gap:+.1f}' for gap in gaps)})")
        rows.append([row.replace("_", " "), strength, *cells])
    parts = [f"{part}{what}" for part in ("", "robust, ") for what in (*MARKS, "aligned - flipped")]
    return markdown(["Training", "Strength", *parts], rows)


def rows_of(found: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    """Return the named rows. Raises LookupError if one of them was not measured."""
    of = {one["row"]: one for one in found["rows"] if "marks" not in one}
    return [of[name] for name in names]


def robust(row: dict[str, Any]) -> list[bool]:
    return flags(row["samples"]["robust"])


def measure(row: dict[str, Any]) -> str:
    """Return the attacks of a row, and the number of images."""
    return f"Robust, `{row['robust']['kind'].removeprefix('upper bound: ')}`, n = {row['robust']['total']:,}"


def share(counts: dict[str, Any]) -> str:
    return with_interval(Accuracy.of(counts["correct"], counts["total"]))


def counted(right: list[bool]) -> str:
    return with_interval(Accuracy.of(sum(right), len(right)))


def difference(before: list[bool], after: list[bool]) -> str:
    value, (low, high) = paired_difference(before, after)
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def text(step: str, file: Path) -> str:
    """Return the table of a step, or that it was not measured."""
    found = read(file)
    measured = {"ensemble": "ensemble", "coarse": "coarse_by_fine", "shortcut": "shortcut_standard"}
    has = found.get("trees") if step == "trees" else any(one["row"] == measured[step] for one in found["rows"])
    return (
        {one.__name__: one for one in (ensemble, coarse, trees, shortcut)}[step](found) if has else "Not measured yet."
    )


if __name__ == "__main__":
    print(text(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else RESULTS))
