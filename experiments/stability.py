"""Prints the table of attribution stability from the measures that `robustcls explain` wrote.

python experiments/stability.py        # from reports/attribution_stability
"""

import sys
from pathlib import Path

from robustcls.cli.console import markdown
from robustcls.results.records import Likeness, Measures, MethodMeasures

ROOT = Path(__file__).resolve().parents[1]
ATTACKS = {"pgd": "PGD-20", "interpretation": "interpretation"}


def table(folder: Path) -> str:
    """Return a Markdown table with a row for each model, method and attack: medians and quartiles, and noise of equal norm."""
    head = ["Model", "Method", "Attack", "Label", "n", "Spearman", "Top 5%", "SSIM", "Cosine", "Spearman under noise"]
    lines: list[list[str]] = []
    for model in ("standard", "pgd"):
        files = {attack: Measures.load(folder / f"{model}_{attack}.json").explanations for attack in ATTACKS}
        for number in range(len(files["pgd"].methods)):
            for attack, found in files.items():
                lines += [[f"`{model}`", *row] for row in rows(found.methods[number], ATTACKS[attack])]
    return markdown(head, lines)


def rows(method: MethodMeasures, attack: str) -> list[list[str]]:
    (noise,) = (like for like in method.likeness if like.against == "benign_noise")
    return [
        [f"`{method.method}`", attack, like.label, str(like.n), *cells(like), cells(noise)[0]]
        for like in method.likeness
        if like.against == "adversarial" and like.n
    ]


def cells(like: Likeness) -> list[str]:
    """Return median and quartiles of each measure shown."""
    spreads = [like.measures[name] for name in ("spearman", "top_k", "ssim", "cosine")]
    return [f"{spread.median:.2f} ({spread.q1:.2f} to {spread.q3:.2f})" for spread in spreads]


if __name__ == "__main__":
    print(table(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "reports" / "attribution_stability"))
