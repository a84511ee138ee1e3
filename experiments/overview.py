"""Prints the table of all experiments: each TOML file, the description in its header, and the results of its evaluation.

python experiments/overview.py
"""

import re
from pathlib import Path

from robustcls import Evaluation
from robustcls.cli.console import markdown, with_interval

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def table() -> str:
    paths = [
        path for path in sorted(HERE.rglob("*.toml")) if path.name not in ("policy.toml", "tree.toml", "noise.toml")
    ]
    return markdown(["Experiment", "What", "Clean", "Robust", "n", "Evidence"], [row(path) for path in paths])


def row(path: Path) -> list[str]:
    header = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    name = path.relative_to(HERE).as_posix()
    what = re.split(r" \(|\.(?: |$)", " ".join(header))[0]
    return [f"[`{name.removesuffix('.toml')}`]({name})", what, *measured(header, path.stem)]


def measured(header: list[str], recipe: str) -> list[str]:
    """Return clean and robust accuracy with intervals, the number of samples, and a link to the evaluation.

    The evaluation is the last one that the header names. recipe: the file name without its suffix.
    """
    named = [match[0] for line in header if (match := re.match(r"reports/\S+", line))]
    if not named:
        own = [match[1] for line in header if (match := re.search(r"python -m experiments\.([\w.]+)\.table", line))]
        for results in (f"reports/{own[-1].replace('.', '/')}/{file}.json" for file in ("results", recipe) if own):
            file = ROOT / results
            # A results.json has rows of all recipes; one without a row has not been run yet.
            if file.exists() and (file.stem == recipe or f'"{recipe}"' in file.read_text(encoding="utf-8")):
                return ["in a table of its own", "", "", f"[JSON](../{results})"]
        return ["not measured yet", "", "", ""]
    evidence = ROOT / named[-1]
    file = evidence / "ema_fast.json" if (evidence / "ema_fast.json").exists() else evidence
    file = file / "evaluation.json" if file.is_dir() else file
    link = f"[JSON](../{file.relative_to(ROOT).as_posix()})"
    if "bench" in named[-1]:
        return ["in the contests below", "", "", link]
    evaluation = Evaluation.load(file)
    attacks = evaluation.robust.kind.removeprefix("upper bound: ")
    robust = f"{with_interval(evaluation.robust)} `{attacks}`"
    return [with_interval(evaluation.clean), robust, f"{evaluation.clean.total:,}", link]


if __name__ == "__main__":
    print(table())
