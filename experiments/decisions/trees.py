"""Accuracy by groups of classes, under an attack on classes and under one on groups, for a given tree and random trees.

python -m experiments.decisions.trees DATA CKPT.pt TREE.toml OUT.json [--n 1000] [--trees 20] [--suite fast]

The model is attacked once, with any wrong class as success, and its adversarial images are judged by groups. Each grouped
model is also attacked itself. The random trees have groups of the same sizes. An interrupted run continues; nothing is printed.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import torch

import robustcls
from experiments.common import write
from robustcls.core.class_tree import read_tree


def random_groups(sizes: list[int], classes: list[str], seed: int) -> dict[str, list[str]]:
    """Return groups of the given sizes, filled with the classes in random order."""
    order = list(classes)
    random.Random(seed).shuffle(order)
    return {f"group {place}": [order.pop() for _ in range(size)] for place, size in enumerate(sizes)}


def measure(options: argparse.Namespace) -> None:
    model = robustcls.load(options.model)
    source = torch.load(options.model, weights_only=True)["meta"]["threat"]
    threat = robustcls.ThreatModel.chosen(None, None, source)
    images, labels = robustcls.load_data(options.data, n=options.n)
    classes = list(model.classes)
    done = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    file = options.out.with_suffix(".images.pt")  # too large to publish
    if not file.exists():
        fine = robustcls.evaluate(model, images, labels, threat, suite=options.suite)
        done |= {"n": len(labels), "threat": str(threat), "suite": options.suite, "trees": []}
        done["fine"] = {"clean": fine.clean.correct, "robust": fine.robust.correct}
        torch.save(fine.examples.x_adv, file)
        write(done, options.out)
    x_adv = torch.load(file, weights_only=True)
    names, of = read_tree(str(options.tree), classes).groups_at(1)
    own = {name: [classes[i] for i, group in enumerate(of) if names[group] == name] for name in names}
    sizes = [len(group) for group in own.values()]
    for number in range(len(done["trees"]), options.trees + 1):  # the first tree is the given one
        groups = random_groups(sizes, classes, number) if number else own
        done["trees"].append({"groups": groups, **judge(model, groups, images, labels, x_adv, threat, options.suite)})
        write(done, options.out)


def judge(model, groups, images, labels, x_adv, threat, suite) -> dict[str, int]:
    """Count the images classified into the right group: clean, under the attack on classes, under an attack on groups."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tree.toml"
        file.write_text(
            "".join(f'"{name}" = {json.dumps(group)}\n' for name, group in groups.items()), encoding="utf-8"
        )
        grouped = robustcls.coarse(model, tree=str(file))
    wanted = grouped.group_of[labels]
    with torch.no_grad():
        right = [torch.cat([grouped(part).argmax(1) for part in x.split(250)]) == wanted for x in (images, x_adv)]
    found = robustcls.evaluate(grouped, images, wanted, threat, suite=suite)
    assert found.clean.correct == int(right[0].sum())
    return {
        "clean": found.clean.correct, "by_fine": int((right[0] & right[1]).sum()), "by_coarse": found.robust.correct,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, kind in (("data", str), ("model", str), ("tree", Path), ("out", Path)):
        parser.add_argument(name, type=kind)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--trees", type=int, default=20)
    parser.add_argument("--suite", default="fast")
    measure(parser.parse_args())
