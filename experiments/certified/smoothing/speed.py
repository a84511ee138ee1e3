"""Times certification by smoothing and a plain loop over the same images, alternating in one process; writes medians as JSON.

python -m experiments.certified.smoothing.speed                     # 200 images, n = 1,000, vgg16(width=0.25): some minutes
python -m experiments.certified.smoothing.speed --model runs/certified/smoothing/gaussian/ckpt.pt --data folder:cifar
python -m experiments.certified.smoothing.speed --tiny --out tiny.json

The loop is that of the paper: one image after another, batches of noisy copies through the model in eval mode, in fp32, without
gradients. It runs with each batch size of --loop-batch, and the fastest one counts. Weights are random unless you give --model:
they do not change the cost of a pass. Run it on an otherwise idle machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

import robustcls
from experiments.common import REPORTS, write
from robustcls.core.provenance import commit, versions
from robustcls.models.checkpoint import build
from robustcls.runtime.device import describe_device

RESULTS = REPORTS / "certified" / "smoothing"
SIGMA, N0, ALPHA = 0.25, 100, 0.001
OURS = "robustcls.certify"


@torch.no_grad()
def plain_loop(model: nn.Module, x: Tensor, n: int, batch: int) -> list[tuple[int, float]]:
    """CERTIFY of Cohen et al. 2019 (arXiv:1902.02918): return class and radius of each image, -1 and 0 if it abstains."""

    def counts(image: Tensor, draws: int) -> Tensor:
        found = torch.zeros(classes, dtype=torch.int64)
        for start in range(0, draws, batch):
            noisy = image.expand(min(batch, draws - start), *image.shape)
            labels = model(noisy + SIGMA * torch.randn_like(noisy)).argmax(1)
            found += torch.bincount(labels, minlength=classes)
        return found

    classes, answers = model(x[:1]).shape[1], []
    for image in x:
        top = int(counts(image, N0).argmax())
        count = int(counts(image, n)[top])
        low = beta.ppf(ALPHA, count, n - count + 1) if count else 0.0
        answers.append((top, SIGMA * norm.ppf(low)) if low > 0.5 else (-1, 0.0))
    return answers


def measure(model: nn.Module, x: Tensor, y: Tensor, n: int, batches: list[int], rounds: int) -> dict[str, object]:
    """Return the seconds of each round, in which every contestant runs once, in rotating order; medians and agreement."""
    answers: dict[str, list[int]] = {}

    def ours() -> None:
        answers[OURS] = robustcls.certify(model, x, y, SIGMA, n=n, n0=N0, alpha=ALPHA).predicted.tolist()

    def loop(batch: int) -> Callable[[], None]:
        def run() -> None:
            answers[f"loop, {batch}"] = [top for top, _ in plain_loop(model, x, n, batch)]

        return run

    contestants = {OURS: ours} | {f"loop, {batch}": loop(batch) for batch in batches}
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):  # the first round is a warm-up on two images
        whole = (x, y)
        if number < 0:
            x, y = x[:2], y[:2]
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter()
            contestants[name]()
            if number >= 0:
                seconds[name].append(round(time.perf_counter() - began, 3))
                print(f"round {number + 1} of {rounds}: {name} {seconds[name][-1]:.1f} s", flush=True)
        x, y = whole
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min(names[1:], key=medians.__getitem__)
    both = [(one, other) for one, other in zip(answers[OURS], answers[best], strict=True) if min(one, other) >= 0]
    return {
        "seconds": seconds, "medians": medians, "plain_loop": best, "ratio": medians[best] / medians[OURS],
        "images_a_minute": 60 * len(x) / medians[OURS], "answered_by_both": len(both),
        "answers_that_differ": sum(one != other for one, other in both),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of certification by smoothing.")
    parser.add_argument("--model", help="checkpoint; random weights if not given")
    parser.add_argument("--data", help="data spec of the images, with --model; otherwise random images")
    parser.add_argument("--arch", default="vgg16(width=0.25)")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--loop-batch", type=int, nargs="+", default=[400, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="PyTorch threads; by default PyTorch's own choice")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.json")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    images, draws = (4, 100) if given.tiny else (given.images, given.draws)
    torch.manual_seed(0)
    if given.model:
        model = robustcls.load(given.model)
        x, y = robustcls.load_data(given.data or "cifar10", n=images)
    else:
        arch = "vgg16(width=0.05)" if given.tiny else given.arch
        model = build(arch, classes=tuple("abcdefghij"), input_size=(3, 32, 32), mean=[0.5] * 3, std=[0.25] * 3)
        x, y = torch.rand(images, 3, 32, 32), torch.randint(0, 10, (images,))
    model = model.cpu().eval()
    found = measure(model, x, y, draws, given.loop_batch, given.rounds)
    record = {
        "model": given.model or ("vgg16(width=0.05)" if given.tiny else given.arch), "weights": given.model or "random",
        "images": images, "draws": draws, "sigma": SIGMA, "n0": N0, "alpha": ALPHA, "threads": torch.get_num_threads(),
        "device": describe_device(torch.device("cpu")), "versions": versions(), "commit": commit(), **found,
    }  # fmt: skip
    write(record, given.out)
    print(f"{record['images']} images, {draws} draws: {found['ratio']:.2f} times the plain loop; {given.out}")


if __name__ == "__main__":
    main()
