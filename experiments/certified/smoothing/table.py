"""Prints the certified curves of the recipes of this folder, from reports/certified/smoothing.

python -m experiments.certified.smoothing.table [FOLDER]
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, read
from robustcls import Evaluation
from robustcls.cli.console import markdown

RESULTS = REPORTS / "certified" / "smoothing"
WORDS = {"gaussian": "noise of sigma 0.25", "no_noise": "no noise"}


def table(found: dict[str, Evaluation], attacked: Evaluation | None) -> str:
    """Return one row per recipe, and one for the attacked model: accuracy by radius with 95% intervals.

    The last columns are the number of abstentions, and the share of images on which the most frequent class gets most votes.

    attacked: the evaluation of the smoothed model trained with noise, at the same radii.
    """
    lines = []
    for name, one in found.items():
        record = one.certified
        assert record is not None
        most = Counter(sample.candidate for sample in record.samples).most_common(1)[0][1]
        last = [str(record.abstained), f"{most / len(record.samples):.1%}"]
        lines.append([WORDS[name], "lower bound: certified", f"{one.clean.accuracy:.1%}", *cells(record.curve), *last])
        if name == "gaussian" and attacked:
            assert [point.eps for point in attacked.curve] == [point.radius for point in record.curve]
            upper = cells(point.robust for point in attacked.curve)
            lines.append([WORDS[name], attacked.robust.kind, f"{attacked.clean.accuracy:.1%}", *upper, "", ""])
    radii = [f"at {point.radius:g}" for point in next(iter(found.values())).certified.curve]
    return markdown(["Trained with", "Bound", "Clean", *radii, "Abstained", "Most frequent class"], lines)


def cells(points: Iterable[Any]) -> list[str]:
    """Return accuracies with their intervals."""
    return [f"{one.accuracy:.1%} [{one.ci95[0]:.1%}, {one.ci95[1]:.1%}]" for one in points]


def about(found: dict[str, Evaluation]) -> str:
    """Return a sentence with the settings that all rows have in common."""
    one = next(iter(found.values()))
    record = one.certified
    return (
        f"{one.data.n:,} test images, sigma {record.sigma:g}, {record.n:,} draws, alpha {record.alpha:g}, l2, "
        f"{record.precision}; {record.device.split(',')[0]}."
    )


def about_speed(record: dict[str, Any]) -> str:
    """Return a sentence with the result of speed.py."""
    loop, batch = record["plain_loop"].split(", ")
    return (
        f"Speed: {record['images']} images with {record['draws']:,} draws take {record['medians']['robustcls.certify']:.0f} s, "
        f"{record['ratio']:.2f} times as fast as a plain fp32 {loop} with batches of {batch} ({record['device']}; medians of "
        f"{len(record['seconds']['robustcls.certify'])} rounds)."
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    found = {name: Evaluation.load(path) for name in WORDS if (path := folder / f"{name}.json").exists()}
    attacked = Evaluation.load(folder / "bracket.json") if (folder / "bracket.json").exists() else None
    print(f"{table(found, attacked)}\n\n{about(found)}" if found else "Not measured yet.")
    if (speed := read(folder / "speed.json")).get("ratio"):
        print(f"\n{about_speed(speed)}")
