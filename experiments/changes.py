"""Studies of a recipe: it is trained with one change each and several seeds, and the models are attacked.

A study is a folder of experiments/: base.toml, a run.py that declares the changes, and a table.py that prints the results.
"""

import argparse
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, attack, command, epochs, history, outcome, percent, read, train, write
from robustcls.cli.console import by_seed, difference_by_seed, markdown
from robustcls.core.config import read_toml

TURNS = 5  # dry runs of a change for --costs
TINY = {
    "data": "digits(size=8)", "eps": "0.1", "batch_size": 64, "val_n": 40, "augment": "none", "limit_train": 300, "epochs": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One change of a recipe.

    Attributes:
        words: name in the table.
        options: options of `train` that replace those of the recipe; None removes one.
        epochs: number of epochs, where the change alters the cost of an image and each row should take the same time.
    """

    words: str
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None


@dataclass(frozen=True)
class Study:
    """A recipe and its changes, of which the one named `base` changes nothing.

    Attributes:
        name: folder in experiments/ and reports/.
        changes: by name, in the order of the table.
        weights: file of a run folder that is attacked.
        overfitting: whether the table shows how far the runs overfit.
    """

    name: str
    changes: Mapping[str, Change]
    weights: str = "last.pt"
    overfitting: bool = False

    @property
    def results(self) -> Path:
        return REPORTS / self.name / "results.json"

    @property
    def base(self) -> dict[str, Any]:
        """The options in base.toml."""
        return read_toml(str(Path(__file__).resolve().parent / self.name / "base.toml"), "base")

    def run(self) -> None:
        """Run the command line of run.py."""
        given = self._parser().parse_args()
        if given.costs:
            results = read(given.out)
            results["costs"] = results.get("costs", {}) | self._costs(given)
            write(results, given.out)
            return
        for seed in given.seeds:
            for name in given.rows:
                if any((row["row"], row["seed"]) == (name, seed) for row in read(given.out)["rows"]):
                    continue
                print(f"seed {seed}, {name}", flush=True)
                made = self._row(name, seed, given)
                results = read(given.out)  # once more, because another process may have written to it meanwhile
                results["rows"].append(made)
                write(results, given.out)
                print({key: made[key] for key in ("clean", "robust")}, flush=True)

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(description=f"Train experiments/{self.name}/base.toml with one change each.")
        parser.add_argument("--data", default=self.base["data"])
        parser.add_argument("--work", type=Path, default=Path("runs") / self.name)
        parser.add_argument("--out", type=Path, default=self.results)
        parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        parser.add_argument("--rows", nargs="+", choices=list(self.changes), default=list(self.changes))
        parser.add_argument("--epochs", type=int, help="epochs of the base recipe, in place of those in base.toml")
        parser.add_argument("--costs", action="store_true", help="only measure images per second")
        parser.add_argument("--tiny", action="store_true", help="seconds, on the digits")
        return parser

    def options(self, name: str, given: argparse.Namespace) -> list[str]:
        """Return the flags of `train` for the base recipe with one change."""
        base, change = self.base, self.changes[name]
        base |= TINY if given.tiny else {"data": given.data}
        whole = (not given.tiny and change.epochs) or base["epochs"]
        count = max(1, round(whole * given.epochs / base["epochs"])) if given.epochs else whole
        chosen = base | {"epochs": count} | change.options
        return [f"--{key.replace('_', '-')}={value}" for key, value in chosen.items() if value is not None]

    def _row(self, name: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
        """Train and evaluate the base recipe with one change."""
        run, options = given.work / f"{name}-{seed}", self.options(name, given)
        train(run, *options, "--seed", seed)
        found = attack(run / self.weights, "--suite", "fast", "--n", "all")
        trained = history(run)
        return {
            "row": name,
            "seed": seed,
            "options": [one for one in options if not one.startswith("--data=")],
            "epochs": epochs(trained),
            "events": [epoch["event"] for epoch in trained if epoch.get("event")],
            "below_best": trained[-1]["below_best"],
            "robust_gap": trained[-1]["robust_gap"],
        } | outcome(found)

    def _costs(self, given: argparse.Namespace) -> dict[str, float]:
        """Return training images per second with the full radius for each change: medians of dry runs, in turns."""
        rates: dict[str, list[float]] = {name: [] for name in given.rows}
        for _ in range(TURNS):
            for name in given.rows:
                options = self.options(name, given)
                output = command("train", *options, "--out", given.work / "cost", "--dry-run", capture=True)
                rates[name].append(
                    float(re.search(r"^# speed {2,}([\d.,]+)", output, re.MULTILINE)[1].replace(",", ""))
                )
        return {name: statistics.median(found) for name, found in rates.items()}

    def table(self, results: dict[str, Any]) -> str:
        """Return one row per change: accuracy on the test images by seed, and the paired difference to the base recipe.

        Rows that are not changes of this study, such as shorter runs of other recipes, come last, under their own names.
        """
        rows = {(row["row"], row["seed"]): row for row in results["rows"]}
        rates = results.get("costs", {})
        lines = []
        for name in dict.fromkeys([*self.changes, *(name for name, _ in rows)]):
            seeds = sorted(seed for one, seed in rows if one == name)
            if not seeds:
                continue
            clean, robust = ([percent(rows[name, seed][what]) for seed in seeds] for what in ("clean", "robust"))
            paired = [seed for seed in seeds if ("base", seed) in rows and name != "base"]
            more = [percent(rows[name, seed]["robust"]) - percent(rows["base", seed]["robust"]) for seed in paired]
            epochs = "/".join(str(count) for count in sorted({rows[name, seed]["epochs"]["run"] for seed in seeds}))
            rate = f"{rates[name] / rates['base']:.2f}" if name in rates and "base" in rates else ""
            words = self.changes[name].words if name in self.changes else name
            cells = [words, epochs, rate, by_seed(clean), by_seed(robust), difference_by_seed(more)]
            if self.overfitting:
                cells += [
                    by_seed([100 * rows[name, seed][what] for seed in seeds]) for what in ("below_best", "robust_gap")
                ]
            lines.append(cells)
        head = ["Change", "Epochs", "Speed", "Clean %", "Robust %, `fast`", "To `base.toml`, points"]
        if self.overfitting:
            head += ["Best minus last epoch", "Training minus validation"]
        return markdown(head, lines)

    def about(self, results: dict[str, Any]) -> str:
        """Return a sentence on the images, the threat model and the devices of all rows."""
        rows = results["rows"]
        images, threats, devices = (
            ", ".join(sorted(found))
            for found in (
                {f"{row['robust']['total']:,}" for row in rows},
                {row["threat"] for row in rows},
                {row["device"].split(",")[0] for row in rows},
            )
        )
        return f"{images} test images, {threats}; {devices}."

    def show(self, arguments: list[str]) -> None:
        """Print the table of the results file in the arguments, by default the one in reports/."""
        found = read(Path(arguments[0]) if arguments else self.results)
        print(f"{self.table(found)}\n\n{self.about(found)}" if found["rows"] else "Not measured yet.")
