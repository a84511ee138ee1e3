"""The contests of the attack suite: choose contestants, verify their examples, compare them with the reference."""

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.contests.attacking import CONTESTS, SLOW, Contestant
from experiments.contests.config import ContestConfig
from experiments.contests.turns import TurnError, hand_over, take_turn
from experiments.contests.verdict import rejudge
from robustcls.bench.attacking import ways_of
from robustcls.bench.limits import forward_flops
from robustcls.bench.subject import load_subject
from robustcls.bench.suites import by_turns
from robustcls.core.classifier import check_images, check_logits, input_size_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.provenance import versions
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data.images import Images
from robustcls.data.splits import SAMPLING_RULE, choose, load_split
from robustcls.evaluation.subject import describe_model
from robustcls.models.loading import LoadedModel
from robustcls.runtime.device import describe_device

NAMES = {"pgd": "attack"}  # names of contests in the result file where they differ; older files say attack
PEERS = ("foolbox", "torchattacks", "adversarial-robustness-toolbox", "pyautoattack")
Turns = dict[str, list[dict[str, Any]]]


class NobodyFinishedError(InputError):
    """Every contestant of a contest failed; the message has the error of the first one."""


class Arena:
    """The model, the images and the files that the contestants of a bench share."""

    def __init__(self, images: Images, task: dict[str, Any], home: Path, data: dict[str, Any]) -> None:
        self.images, self.home = images, home
        self.loaded: LoadedModel = load_subject(task, images)
        self.model: nn.Module = self.loaded.model
        self.threat = ThreatModel(task["norm"], parse_eps(task["eps"]))
        self.x, self.y = images.to(task["device"]).batch()
        check_images(self.x, self.y, input_size_of(self.model))
        logits = self._first_logits()
        record = describe_model(self.model, self.loaded.name, self.loaded.sha256, logits.shape[1])
        self.weights = describe_model(self.model).sha256
        file = hand_over(images, home / "attack.images")
        self.task = task | {"images": file, "answer": str(home / "answer.pt")}
        self.subject = {
            "model": {key: getattr(record, key) for key in ("name", "sha256", "arch", "parameters")},
            "data": data | {"n": len(images), "sha256": images.sha256()},
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps, "eps_text": self.threat.eps_text},
            "forward_flops": forward_flops(self.model, images.pixels.shape[1:]),
            "device": describe_device(torch.device(task["device"])),
            "threads": torch.get_num_threads(),
            "seed": task["seed"],
            "versions": versions() | _peer_versions(),
        }

    def _first_logits(self) -> Tensor:
        try:
            with torch.no_grad(), frozen(self.model):
                logits = self.model(self.x[:1].clone())
        except Exception as error:  # third-party code may raise anything
            size, reason = "x".join(map(str, self.x.shape[1:])), " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"model {self.loaded.name} cannot take images of {size}: {reason}") from error
        check_logits(logits, self.y)
        return logits

    def turn(self, contest: str, contestant: str) -> dict[str, Any]:
        """Return what the contestant measured, with the verdict on its examples, or its error in one line."""
        answer = Path(self.task["answer"])
        answer.unlink(missing_ok=True)
        try:
            result = take_turn(self.home, self.task | {"contest": contest, "contestant": contestant})
            if result.pop("weights") != self.weights:
                raise TurnError("its process built other weights: does the model's code load the same each time?")
            found = torch.load(answer, weights_only=True)
            return result | self.verdict(found["x_adv"], found["stands"])
        except (TurnError, ValueError) as failure:
            return {"error": str(failure)}

    def verdict(self, x_adv: Tensor, stands: Tensor) -> dict[str, Any]:
        return rejudge(self.model, self.x, self.y, self.threat, x_adv, stands)


def run_attack_suite(
    config: ContestConfig,
    task: dict[str, Any],
    home: Path,
    rates: dict[str, float],
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Run the requested contests and return them as suites of the result. Raises InputError if no contestant finished."""
    full = load_split(config.data, "test", data_dir=config.data_dir, seed=config.seed)
    images = choose(full, config.num_samples)
    sampling = SAMPLING_RULE if len(images) < len(full) else "all"
    arena = Arena(images, task, home, {"name": config.data, "split": "test", "sampling": sampling})
    for note in arena.loaded.notes:
        say(f"  {note}")
    suites = {}
    for contest in config.contests:
        ways = ways_of(torch.device(task["device"])) if config.suite == "cuda" else ()
        present, missing = contestants_of(contest, slow=config.art_autoattack, ways=ways)
        count = config.rounds_of(contest)
        say(f"contest {contest}: {count} round{'s' * (count > 1)} on {len(images)} images")
        rounds: Turns = by_turns([one.name for one in present], count, partial(arena.turn, contest), say)
        rows = {one.name: summarize(one, rounds, len(images)) for one in present}
        if all("seconds" not in row for row in rows.values()):
            first = next(iter(rows))
            raise NobodyFinishedError(f"no contestant of {contest} finished; {first}: {rows[first]['error']}")
        suite = {"contest": contest, "task": _public(task), "subject": arena.subject, "n": len(images)}
        if contest == "pgd":
            flops = (2 * config.attack_steps + 2) * arena.subject["forward_flops"]
            suite["fp32_limit_seconds"] = flops / rates["fp32"] * len(images)
        suites[NAMES.get(contest, contest)] = suite | {"missing": missing, "rows": rows, "rounds": rounds}
    return suites


def contestants_of(contest: str, *, slow: bool = False, ways: Sequence[str] = ()) -> tuple[list[Contestant], list[str]]:
    """Return the contestants that can take part, and the packages that are not installed.

    ways: further ways of searching, beside the default.
    """
    asked = [one for one in CONTESTS[contest] if (slow or one.name != SLOW) and one.way in ("", *ways)]
    missing = {one.package for one in asked if one.package and importlib.util.find_spec(one.package) is None}
    return [one for one in asked if one.package not in missing], sorted(missing)


def summarize(contestant: Contestant, rounds: Turns, n: int) -> dict[str, Any]:
    """Return medians over the rounds that a contestant finished; ratio and points need rounds of its reference, too."""
    results = rounds[contestant.name]
    done = [result for result in results if "error" not in result]
    errors = [result["error"] for result in results if "error" in result]
    errors += [f"{a['name']}: {a['error']}" for result in done for a in result.get("attacks", ()) if a["error"]]
    row: dict[str, Any] = {"reference": contestant.reference}
    if done:
        seconds = _median(result["seconds"] for result in done)
        both = [
            (own, other)
            for own, other in zip(results, rounds.get(contestant.reference, ()), strict=False)
            if "error" not in own and "error" not in other
        ]
        row |= {
            "seconds": seconds,
            "images_per_second": n / seconds,
            "ratio": _median(other["seconds"] / own["seconds"] for own, other in both),
            "points": _median(100 * (own["robust_accuracy"] - other["robust_accuracy"]) for own, other in both),
            "precision": done[0]["precision"],
            "peak_memory_mb": max(result["peak_memory_mb"] for result in done),
        }
        row |= {key: _median(result[key] for result in done) for key in ACCURACIES}
        row |= {key: max(result[key] for result in done) for key in ("unverified", "outside")}
    return row | ({"error": errors[0]} if errors else {})


ACCURACIES = ("clean_accuracy", "robust_accuracy", "claimed_robust_accuracy")


def _median(values) -> Any:
    known: Sequence[float] = list(values)
    return statistics.median(known) if known else None


def _public(task: dict[str, Any]) -> dict[str, Any]:
    return {name: Path(value).name if name == "model" else value for name, value in task.items()}


def _peer_versions() -> dict[str, str]:
    found = {}
    for package in PEERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
