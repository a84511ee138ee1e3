"""Prints the tables of the decision experiments, from reports/decisions or another folder that run.sh wrote.

python experiments/decisions/table.py ensemble|coarse|trees|shortcut [FOLDER]
"""

import json
import statistics
import sys
from pathlib import Path

from robustcls import Evaluation
from robustcls.cli.console import markdown, with_interval
from robustcls.results.comparison import held
from robustcls.results.records import Accuracy
from robustcls.results.statistics import paired_difference

HOME = Path(__file__).resolve().parents[2] / "reports" / "decisions"


def ensemble(folder: Path) -> str:
    first, second, both, by_first, by_second = (
        Evaluation.load(folder / f"{name}.json") for name in ("first", "second", "ensemble", "by_first", "by_second")
    )
    one_by_one = [held(one) and held(other) for one, other in zip(by_first.samples, by_second.samples, strict=True)]
    as_one = [held(one) for one in both.samples]
    rows = [
        ["first member", with_interval(first.clean), with_interval(first.robust), ""],
        ["second member", with_interval(second.clean), with_interval(second.robust), ""],
        ["ensemble, first member attacked", with_interval(both.clean), with_interval(by_first.robust), ""],
        ["ensemble, second member attacked", with_interval(both.clean), with_interval(by_second.robust), ""],
        ["ensemble, members attacked one by one", with_interval(both.clean), counted(one_by_one), ""],
        [
            "ensemble, attacked as one",
            with_interval(both.clean),
            with_interval(both.robust),
            difference(one_by_one, as_one),
        ],
    ]
    return markdown(["Attacked", "Clean", f"Robust, {kind(both)}", "To members one by one, points"], rows)


def coarse(folder: Path) -> str:
    fine, by_coarse, by_fine = (
        Evaluation.load(folder / f"{name}.json") for name in ("fine", "coarse", "coarse_by_fine")
    )
    severity = fine.severity
    assert severity is not None
    output = {
        name: place
        for place, name in zip(by_coarse.data.class_map.outputs, by_coarse.data.class_map.classes, strict=True)
    }
    group = {label: output[name] for label, name in enumerate(fine.model.classes)}
    naive = [
        one.clean is not None and group[one.clean] == group[one.label]
        and one.adversarial is not None and group[one.adversarial] == group[one.label] for one in fine.samples
    ]  # fmt: skip
    by_transfer, meant = ([held(one) for one in found.samples] for found in (by_fine, by_coarse))
    rows = [
        ["classes", "classes", with_interval(fine.clean), with_interval(fine.robust), ""],
        ["groups", "classes, predictions grouped", with_interval(by_coarse.clean), counted(naive),
         difference(naive, meant)],
        ["groups", "classes, each attack judged by groups", with_interval(by_coarse.clean), with_interval(by_fine.robust),
         difference(by_transfer, meant)],
        ["groups", "groups", with_interval(by_coarse.clean), with_interval(by_coarse.robust), ""],
    ]  # fmt: skip
    shown = markdown(
        ["Accuracy by", "Attack on", "Clean", f"Robust, {kind(fine)}", "To an attack on groups, points"], rows
    )
    mistakes = [
        [name, f"{found.total:,}", f"{found.mean:.2f}", f"[{found.ci95[0]:.2f}, {found.ci95[1]:.2f}]", f"{found.chance:.2f}",
         with_interval(found.apart)]
        for name, found in (("clean", severity.clean), ("under attack", severity.robust)) if found.mean is not None
    ]  # fmt: skip
    heads = ["Mistakes", "n", f"Edges up, of {severity.height}", "95%", "By chance", "Between animals and vehicles"]
    return f"{shown}\n\n{markdown(heads, mistakes)}"


def trees(folder: Path) -> str:
    found = json.loads((folder / "trees.json").read_text(encoding="utf-8"))
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
        ["Groups", "Clean", "Under an attack on classes", "Under an attack on groups", "Overestimated by, points"], rows
    )


def shortcut(folder: Path) -> str:
    rows = []
    names = sorted({path.stem.rsplit("_", 2)[0] for path in folder.glob("*_aligned.json")}, reverse=True)
    for name in names:
        seeds = sorted(path.stem.rsplit("_", 2)[1] for path in folder.glob(f"{name}_*_aligned.json"))
        cells = []
        for part in ("clean", "robust"):
            means = {
                marks: [
                    getattr(Evaluation.load(folder / f"{name}_{seed}_{marks}.json"), part).accuracy for seed in seeds
                ]
                for marks in ("aligned", "absent", "flipped")
            }
            gaps = [a - f for a, f in zip(means["aligned"], means["flipped"], strict=True)]
            cells += [f"{100 * statistics.mean(found):.1f}%" for found in means.values()]
            cells.append(f"{100 * statistics.mean(gaps):+.1f} ({', '.join(f'{100 * gap:+.1f}' for gap in gaps)})")
        recipe, strength = name.rsplit("_", 1)
        rows.append([recipe.replace("_", " "), strength, *cells])
    parts = [
        f"{part}{marks}" for part in ("", "robust, ") for marks in ("aligned", "absent", "flipped", "aligned - flipped")
    ]
    return markdown(["Training", "Strength", *parts], rows)


def kind(found: Evaluation) -> str:
    return f"`{found.robust.kind.removeprefix('upper bound: ')}`"


def counted(right: list[bool]) -> str:
    return with_interval(Accuracy.of(sum(right), len(right)))


def difference(before: list[bool], after: list[bool]) -> str:
    value, (low, high) = paired_difference(before, after)
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


if __name__ == "__main__":
    tables = {one.__name__: one for one in (ensemble, coarse, trees, shortcut)}
    print(tables[sys.argv[1]](Path(sys.argv[2]) if len(sys.argv) > 2 else HOME))
