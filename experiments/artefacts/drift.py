"""How often `serve` reports drift in the outputs of an artefact: on clean images, under noise, and with a growing share of
adversarial traffic.

python experiments/artefacts/drift.py ARTEFACT CKPT.pt DATA OUT.json    # measures
python experiments/artefacts/drift.py OUT.json                          # prints the table

Traffic is drawn from test images without replacement, window by window. Adversarial images are made with the checkpoint at
linf 8/255 and judged by the artefact's outputs. The adaptive attack aims at outputs instead of errors: each image is moved
towards the softmax output of another image of another class, so that the distribution of outputs stays the same (PGD on the
cross-entropy to these outputs).
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import robustcls
from robustcls.cli.console import markdown
from robustcls.evaluation.measures.corruptions.measure import corrupt
from robustcls.serving.drift import Drift

N, STEPS = 4000, 20
AIMING = 60  # steps of decreasing size, so that the outputs reach their targets
WINDOWS, TRIALS = 300, 100
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
BATCH = 200
NOISE = "gaussian_noise", 3

Outputs = NDArray[numpy.float64]


def measure(artefact: str, checkpoint: str, data: str) -> dict:
    served, model = robustcls.load(artefact), robustcls.load(checkpoint)
    x, y = robustcls.load_data(data, "test", N)
    drift = Drift.of(Path(artefact) / "drift.npz", len(served.classes))
    outputs = partial(outputs_of, served)
    clean = outputs(x)
    threat = robustcls.ThreatModel("linf", "8/255")
    noisy = torch.cat([images for images, _ in corrupt(x, y, *NOISE, seed=0)])
    kinds = {
        "pgd": robustcls.attack(model, x, y, threat, f"pgd(steps={STEPS})"),
        "adaptive": aimed(model, x, y, torch.from_numpy(clean).float(), threat.eps),
    }
    draw = numpy.random.default_rng(0)
    found: dict = {
        "artefact": Path(artefact).name, "data": data, "n": len(x), "window": drift.window, "threshold": drift.threshold,
        "windows": WINDOWS, "clean_accuracy": float((clean.argmax(1) == y.numpy()).mean()),
        "false_alarms": share_of_windows(drift, draw, lambda rows: clean[rows]),
    }  # fmt: skip
    found["noise"] = {
        "name": NOISE[0], "severity": NOISE[1], "trials": TRIALS,
        "accuracy": float((outputs(noisy).argmax(1) == y.numpy()).mean()),
        "found_in_two_windows": in_two(drift, draw, outputs(noisy)),
    }  # fmt: skip
    found["adversarial"] = {}
    for name, x_adv in kinds.items():
        attacked = outputs(x_adv)
        found["adversarial"][name] = {
            "misclassified": float((attacked.argmax(1) != y.numpy()).mean()),
            "fires": {str(share): share_of_windows(drift, draw, mixed(clean, attacked, share)) for share in SHARES},
        }  # fmt: skip
    return found


def outputs_of(model: nn.Module, x: Tensor) -> Outputs:
    with torch.no_grad():
        return numpy.concatenate([model(part).double().softmax(1).numpy() for part in x.split(BATCH)])


def aimed(model: nn.Module, x: Tensor, y: Tensor, outputs: Tensor, eps: float) -> Tensor:
    """Return images within linf eps of x that aim at the outputs of images of other classes, each output used once."""
    generator, order = torch.Generator().manual_seed(0), torch.arange(len(x))
    while (clash := (y[order] == y).nonzero().squeeze(1)).numel():  # swap until no image aims at its own class
        others = torch.randperm(len(x), generator=generator)[: len(clash)]
        order[torch.cat([clash, others])] = order[torch.cat([others, clash])]
    goals, made = outputs[order], []
    for part, goal in zip(x.split(BATCH), goals.split(BATCH), strict=True):
        x_adv = (part + eps * (2 * torch.rand(part.shape, generator=generator) - 1)).clamp(0, 1)
        for step in range(AIMING):
            x_adv.requires_grad_(True)
            loss = nn.functional.cross_entropy(model(x_adv), goal, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x_adv)
            x_adv = x_adv.detach() - eps / 4 * (1 - step / AIMING) * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, part - eps), part + eps).clamp(0, 1)
        made.append(x_adv)
    return torch.cat(made)


def mixed(clean: Outputs, attacked: Outputs, share: float) -> Callable[[NDArray[numpy.int64]], Outputs]:
    """Return a function that gives the outputs of a window of traffic, the first `share` of it adversarial."""

    def traffic(rows: NDArray[numpy.int64]) -> Outputs:
        first = round(share * len(rows))
        return numpy.concatenate([attacked[rows[:first]], clean[rows[first:]]])

    return traffic


def share_of_windows(drift: Drift, draw: numpy.random.Generator, traffic: Callable) -> float:
    """Return the share of windows with a drift alarm."""
    rows = (draw.choice(N, drift.window, replace=False) for _ in range(WINDOWS))
    return float(numpy.mean([drift.has_drifted(drift.distances(traffic(one))) for one in rows]))


def in_two(drift: Drift, draw: numpy.random.Generator, outputs: Outputs) -> float:
    """Return the share of trials with a drift alarm in at least one of two windows."""
    fired = []
    for _ in range(TRIALS):
        rows = draw.choice(N, 2 * drift.window, replace=False)
        fired.append(any(drift.has_drifted(drift.distances(outputs[part])) for part in numpy.split(rows, 2)))
    return float(numpy.mean(fired))


def table(found: dict) -> str:
    head = ["Traffic", "Misclassified", *(f"{float(share):.0%}" for share in SHARES)]
    rows = [
        [name, f"{one['misclassified']:.1%}", *(f"{one['fires'][str(share)]:.0%}" for share in SHARES)]
        for name, one in found["adversarial"].items()
    ]
    noise = found["noise"]
    return (
        f"False alarms on clean images: {found['false_alarms']:.1%} of {found['windows']} windows of {found['window']}. "
        f"{noise['name']} of severity {noise['severity']} (accuracy {found['clean_accuracy']:.1%} to {noise['accuracy']:.1%}): "
        f"alarm within two windows in {noise['found_in_two_windows']:.0%} of "
        f"{noise['trials']} trials. Windows with an alarm, by the share of adversarial images in the window:\n\n"
        f"{markdown(head, rows)}"
    )


if __name__ == "__main__":
    *inputs, out = sys.argv[1:]
    if inputs:
        Path(out).write_text(json.dumps(measure(*inputs), indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(Path(out).read_text(encoding="utf-8"))))
