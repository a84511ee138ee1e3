"""Plants label errors and duplicates in training images, audits them, corrects what the audit finds, and trains on the result.

    python -m experiments.audit.run audit SEED         # audits the images with planted errors, and with the original labels
    python -m experiments.audit.run train SEED ARM     # trains on one of ARMS by --objective, evaluates on test images
    python -m experiments.audit.table                  # prints the results

Options: --config FILE.toml, --features SPEC (audit with a pretrained network, such as experiments.audit.net:lite0), --out DIR
(reports/audit/noise, or reports/audit/features), --data SPEC, --objective standard|n_fgsm. Each step reads the output of the
step before it; a step that is done is not repeated.
"""

import argparse
import tomllib
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

import robustcls
from experiments.audit.table import ARMS
from experiments.common import REPORTS, bits, outcome, write
from robustcls.auditing.audit import audit_data
from robustcls.auditing.confident import find_label_errors
from robustcls.auditing.config import AuditConfig
from robustcls.data.images import Images
from robustcls.data.splits import hold_out, load_all, load_split
from robustcls.results.comparison import held

HERE = Path(__file__).resolve().parent
OBJECTIVES = {"standard": {"adv": "none"}, "n_fgsm": {"adv": "n_fgsm"}}


def load(config: dict, spec: str, seed: int) -> Images:
    """Return the training images chosen by the seed, indexed from 0."""
    images = load_all(spec, limit=config["images"], seed=seed)
    return replace(images, index=torch.arange(len(images)), available=len(images), files=None)


def plant_errors(images: Images, config: dict, seed: int) -> tuple[Images, Tensor]:
    """Return the images with planted label errors, and a mask of the changed labels.

    Half of the errors are symmetric noise (any other class), half swap the two classes of the pair.
    """
    draws, labels = torch.Generator().manual_seed(1000 + seed), images.labels.clone()
    half = round(config["share"] * len(images) / 2)
    a, b = (images.classes.index(name) for name in config["pair"])
    in_pair = ((labels == a) | (labels == b)).nonzero().squeeze(1)
    swapped = in_pair[torch.randperm(len(in_pair), generator=draws)[:half]]
    labels[swapped] = a + b - labels[swapped]
    wrong = torch.zeros(len(images), dtype=torch.bool)
    wrong[swapped] = True
    left = (~wrong).nonzero().squeeze(1)
    other = left[torch.randperm(len(left), generator=draws)[:half]]
    k = len(images.classes)
    labels[other] = (labels[other] + torch.randint(1, k, (len(other),), generator=draws)) % k
    wrong[other] = True
    return replace(images, labels=labels), wrong


def audit(config: dict, spec: str, seed: int, out: Path) -> None:
    """Audit the images with planted and with original labels; save the suspicion ratios and guesses that the arms use."""
    true = load(config, spec, seed)
    noisy, wrong = plant_errors(true, config, seed)
    record: dict = {"seed": seed, "images": len(true), "planted": int(wrong.sum()), "options": config["audit"]}
    for name, images in (("noisy", noisy), ("true", true)):
        options = AuditConfig(data=spec, minutes=config["minutes"], seed=seed, quiet=True, **config["audit"])
        found, folds = audit_data(options, images, progress=True)
        record[name] = {
            "accuracy": found.accuracy.accuracy, "epochs": found.epochs, "issues": len(found.issues),
            "seconds": found.provenance.seconds, "versions": found.provenance.versions,
        }  # fmt: skip
        confident = find_label_errors(folds.probabilities, images.labels)
        torch.save({"ratio": confident.ratio, "guess": confident.guess}, out / f"{name}_{seed}.pt")
        if name == "noisy":
            record[name] |= quality(confident, true.labels, wrong)
    record["duplicates"] = planted_duplicates(config, spec, true, seed)
    write(record, out / f"audit_{seed}.json")


def quality(confident, truth: Tensor, wrong: Tensor) -> dict:
    """Return how well the audit finds the planted errors (ranking and issues), and how often its guess is correct."""
    top = confident.ratio.argsort(descending=True, stable=True)[: int(wrong.sum())]
    hit = confident.issue & wrong
    return {
        "average_precision": float(average_precision_score(wrong.numpy(), confident.ratio.numpy())),
        "precision_of_issues": (hit.sum() / confident.issue.sum().clamp(min=1)).item(),
        "recall_of_issues": (hit.sum() / wrong.sum()).item(),
        "precision_of_top": wrong[top].float().mean().item(),
        "guess_right": (confident.guess == truth)[top][wrong[top]].float().mean().item(),
    }


def planted_duplicates(config: dict, spec: str, images: Images, seed: int) -> dict:
    """Put copies of test images among the training images, half of them darkened, and count how many the audit finds."""
    from robustcls.auditing.duplicates import find_duplicates

    test = load_split(spec, "test")
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))[: config["duplicates"]]
    copies = test.pixels[chosen]
    half = len(copies) // 2
    copies[half:] = (copies[half:].float() * 0.8).round().to(torch.uint8)
    first = len(images) + len(copies)
    groups = find_duplicates(torch.cat([images.pixels, copies, test.pixels]), progress=True)
    joined = [set(group.rows) for group in groups]
    found = sum(
        any({len(images) + i, first + row} <= group for group in joined) for i, row in enumerate(chosen.tolist())
    )
    own = sum(any(r < len(images) for r in group) and any(r >= first for r in group) for group in joined)
    return {"planted": len(copies), "found": found, "groups_across_splits": own, "groups": len(groups)}


def arm_of(arm: str, config: dict, spec: str, seed: int, out: Path) -> Images:
    """Return the training images of an arm of the experiment."""
    true = load(config, spec, seed)
    noisy, wrong = plant_errors(true, config, seed)
    n = int(wrong.sum())
    images = true if arm.startswith("true") else noisy
    if arm in ("true", "noisy"):
        return images
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(2000 + seed))
    if arm != "random":
        saved = torch.load(out / f"{'true' if arm == 'true_removed' else 'noisy'}_{seed}.pt", weights_only=True)
        rows = saved["ratio"].argsort(descending=True, stable=True)
    if arm in ("reviewed", "relabelled"):
        labels = images.labels.clone()
        labels[rows[:n]] = (true.labels if arm == "reviewed" else saved["guess"])[rows[:n]]
        return replace(images, labels=labels)
    kept = images.take(rows[n:].sort().values)
    return replace(kept, index=torch.arange(len(kept)), available=len(kept), split_counts=())


def train(arm: str, objective: str, config: dict, spec: str, seed: int, out: Path) -> None:
    """Train on the images of an arm and evaluate the model on unchanged test images."""
    run = robustcls.train(
        data=hold_out(arm_of(arm, config, spec, seed, out), seed=seed), eps="8/255", seed=seed, progress=True,
        out=out / "runs" / f"{arm}_{objective}_{seed}", **OBJECTIVES[objective], **config["train"],
    )  # fmt: skip
    x, y = robustcls.load_data(spec, "test", config["test_n"])
    threat = "linf:8/255"
    if objective == "standard":  # it is not robust under any attack: clean accuracy shows what label errors cost
        found = robustcls.evaluate(run.model, x, y, threat, attacks="fgsm", seed=seed, checks=(), progress=True)
    else:
        found = robustcls.evaluate(run.model, x, y, threat, attacks=config["attacks"], seed=seed, progress=True)
    # Standard training is judged on clean images, N-FGSM under attack.
    right = [one.clean == one.label if objective == "standard" else held(one) for one in found.samples]
    write({"right": bits(right)} | outcome(found), out / f"{arm}_{objective}_{seed}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("audit", "train"))
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("arm", choices=ARMS, nargs="?", default="noisy")
    parser.add_argument("--objective", choices=OBJECTIVES, default="standard")
    parser.add_argument("--config", type=Path, default=HERE / "noise.toml")
    parser.add_argument("--features")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data")
    given = parser.parse_args()
    config = tomllib.loads(given.config.read_text(encoding="utf-8"))
    if given.features:
        config["audit"]["features"] = given.features
    spec = given.data or config["data"]
    given.out = given.out or REPORTS / "audit" / ("features" if given.features else "noise")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.step == "audit":
        if not (given.out / f"audit_{given.seed}.json").exists():
            audit(config, spec, given.seed, given.out)
    elif not (given.out / f"{given.arm}_{given.objective}_{given.seed}.json").exists():
        train(given.arm, given.objective, config, spec, given.seed, given.out)


if __name__ == "__main__":
    main()
