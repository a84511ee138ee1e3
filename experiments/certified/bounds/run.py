"""Certificates by bounds and robust accuracy under `fast`, on models trained by others: same images, norm and radius.

    PYTHONPATH=../shared/models python -m experiments.certified.bounds.run --cifar folder:cifar
    PYTHONPATH=../shared/models python -m experiments.certified.bounds.run --models fashion -n 20 --out tiny.json   # a minute

The models are defined in third_party.py in the folder on PYTHONPATH. A certified sample that `fast` breaks stops the script.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import robustcls
from experiments.common import REPORTS, bits, write
from robustcls.certification.bounds import METHODS, certify_bounds
from robustcls.core.provenance import commit, versions
from robustcls.results.comparison import held
from robustcls.results.statistics import wilson

RESULTS = REPORTS / "certified" / "bounds.json"
# Name: data, threat model, number of images, and whether to take the first images of each class (or the first of all)
ROWS: dict[str, tuple[str, str, int, bool]] = {
    "fashion": ("fashion_mnist", "linf:0.1", 300, False),
    "cnn_a_mix": ("cifar", "linf:2/255", 300, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Certificates beside attacks.")
    parser.add_argument("--cifar", default="cifar10")
    parser.add_argument("--models", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("-n", type=int, help="number of images; by default that of the row")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = [row_of(name, given.cifar, given.n) for name in given.models]
    found = {"rows": rows, "commit": commit(), "versions": versions(), "threads": torch.get_num_threads()}
    write(found, given.out)


def row_of(name: str, cifar: str, limit: int | None) -> dict[str, Any]:
    """Certify and attack a model."""
    data, threat, n, by_class = ROWS[name]
    model = robustcls.load(f"third_party:{name}")
    images, labels = first(cifar if data == "cifar" else data, limit or n, by_class)
    methods = {}
    for method in METHODS:
        bounds = certify_bounds(model, images, labels, threat, method=method, progress=True)
        methods[method] = [int(one) for one in bounds.certified]
    result = robustcls.evaluate(model, images, labels, threat, suite="fast")
    robust = [held(one) for one in result.samples]
    clean = [one.clean == one.label for one in result.samples]
    for method, certified in methods.items():
        broken = [k for k, (one, other) in enumerate(zip(certified, robust, strict=True)) if one and not other]
        assert not broken, f"{name}: certified by {method} and misclassified: samples {broken}"
    row = {"model": name, "data": data, "threat": threat, "n": len(labels), "by_class": by_class}
    row |= {"clean": share(clean), "fast": share(robust), **{method: share(one) for method, one in methods.items()}}
    print({key: value["correct"] if isinstance(value, dict) else value for key, value in row.items()}, flush=True)
    row["samples"] = {"robust": bits(robust), **{method: bits(one) for method, one in methods.items()}}
    return row


def first(data: str, n: int, by_class: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first n test images, or the first n // classes of each class."""
    images, labels = robustcls.load_data(data, split="test", n="all")
    if not by_class:
        return images[:n], labels[:n]
    classes = int(labels.max()) + 1
    places = torch.cat([(labels == k).nonzero().squeeze(1)[: n // classes] for k in range(classes)])
    return images[places], labels[places]


def share(flags: list[Any]) -> dict[str, Any]:
    correct, total = sum(map(bool, flags)), len(flags)
    return {"correct": correct, "total": total, "ci95": [round(one, 4) for one in wilson(correct, total)]}


if __name__ == "__main__":
    main()
