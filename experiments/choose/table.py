"""Prints the last two candidates of the choice: what the choice said of them, and their full runs.

python -m experiments.choose.table [FOLDER]     # reports/choose, or another folder that run.py wrote
"""

import sys
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, flags, read
from robustcls.choosing.record import Choice
from robustcls.cli.console import markdown, with_interval
from robustcls.results.accuracy import Accuracy
from robustcls.results.statistics import paired_difference

HOME = REPORTS / "choose"


def table(choice: Choice, found: dict[str, dict[str, Any]]) -> str:
    """Return the last two candidates: validation accuracy after the choice, test accuracy after the full run, the verdict.

    found: the results of the full runs by candidate, as in full.json.
    """
    first, second = choice.rungs[-1].trials
    rows = [
        [trial.name, with_interval(trial.score),
         *(with_interval(Accuracy.of(*found[trial.name][key])) for key in ("clean", "robust"))] for trial in (first, second)
    ]  # fmt: skip
    kept = {name: flags(one["samples_robust"]) for name, one in found.items()}
    value, (low, high) = paired_difference(kept[second.name], kept[first.name])
    rival = next(one for one in choice.rivals if one.second == second.name)
    said = "it was told apart" if rival.claimable else "the choice said that they cannot be told apart"
    said += f", since {rival.unequal}" if rival.unequal else ""
    ended = (
        "won the full run, too" if low > 0 else "lost the full run" if high < 0 else "is level with it in the full run"
    )
    kind = found[first.name]["kind"].removeprefix("upper bound: ")
    shown = markdown(["Candidate", "Robust, validation", "Clean, test", f"Robust, test, `{kind}`"], rows)
    return (
        f"{shown}\n\n{choice.winner} against {second.name}: {said} "
        f"({100 * rival.difference:+.1f} points, seeds make {100 * (choice.noise or 0):.1f}); it {ended}: "
        f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HOME
    if not (folder / "full.json").exists():
        print("Not measured yet.")
    else:
        print(table(Choice.load(folder / "choose.json"), read(folder / "full.json")))
