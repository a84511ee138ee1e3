"""Run the rounds in which the contestants of a suite take turns, and summarise the results."""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.contests.attack_suite import run_attack_suite
from experiments.contests.config import ContestConfig
from experiments.contests.cuda_suite import run_evaluation, run_training
from experiments.contests.epochs import EPOCHS
from experiments.contests.tables import BASELINE
from experiments.contests.turns import TurnError, hand_over, take_turn
from experiments.contests.workloads import TORCHATTACKS, contestants_of
from robustcls.bench.limits import copy_bandwidth, forward_flops, matrix_rates
from robustcls.bench.subject import TRAINING_IMAGES, load_subject, subject_task
from robustcls.bench.suites import by_turns, describe_machine, training_task
from robustcls.core.errors import InputError
from robustcls.core.plugins import names
from robustcls.data.images import Images
from robustcls.data.splits import choose, load_split, load_training_data
from robustcls.models.checkpoint import build

TRAINING_ROUNDS = 3
Say = Callable[[str], None]


def run_contests(config: ContestConfig, say: Say, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure the suites and return a JSON-ready dict with every round and the medians.

    save: called with the results so far whenever a contestant of the cuda suite is done.
    """
    result, common = describe_machine(config)
    device = torch.device(common["device"])
    with tempfile.TemporaryDirectory() as folder:
        if config.suite == "cuda":
            result["copy_bandwidth"] = copy_bandwidth(device)
            suites: dict[str, Any] = {}
            result["suites"]["cuda"] = suites
            for arch in config.archs:
                home = Path(folder) / str(len(suites))
                home.mkdir()
                suites[arch] = {"training": {}, "evaluation": {}}
                say(f"{arch}")
                _run_cuda_suite(config, common | {"arch": arch}, home, result, suites[arch], say, lambda: save(result))
            result["matrix_rates_at_the_end"] = matrix_rates(device)
            return result
        home, common = Path(folder), common | {"arch": config.archs[0]}
        if config.suite == "serve":
            from experiments.contests.serving import run_serve_suite

            result["suites"]["serve"] = run_serve_suite(config, common, home, say)
            return result
        if config.suite in ("train", "all"):
            result["suites"]["train"] = _run_train_suite(config, common, home, result["matrix_rates"], say)
        if config.suite == "train":
            return result
        subject = _subject(config, common, home, say)
        if config.suite in ("explain", "all"):
            from experiments.contests.explaining import run_explain_suite

            full = load_split(config.data, "test", data_dir=config.data_dir, seed=config.seed)
            images = choose(full, config.num_samples)
            say(f"explanations of at most {len(images)} images")
            task = subject | {
                "model_name": config.model or "quick model",
                "methods": config.method or names("attribution"),
            }
            result["suites"]["explain"] = run_explain_suite(images, task, home, config.rounds, say)
        if config.suite in ("attack", "all"):
            result["suites"] |= run_attack_suite(config, subject, home, result["matrix_rates"], say)
    return result


def _subject(config: ContestConfig, common: dict[str, Any], home: Path, say: Say) -> dict[str, Any]:
    """Return the task of contestants that share a model: the given one, or one trained for a few seconds."""
    return subject_task(config, common, home, say) | {"steps": config.attack_steps}


def _run_cuda_suite(config: ContestConfig, common, home: Path, result, suite, say: Say, save) -> None:
    full, _ = load_training_data(config.data, data_dir=config.data_dir, seed=config.seed)
    images = choose(full, TRAINING_IMAGES)
    if config.model and config.evaluations:
        load_subject(_subject(config, common, home, say), images)  # reports wrong input before minutes of training
    if config.trainings:
        task = training_task(config, common, images)
        say(f"training: {config.updates} updates of {task['batch_size']} images")
        run_training(images, task, config.trainings, config.rounds or 1, home, suite["training"], say, save)
    if config.evaluations:
        subject = _subject(config, common, home, say)
        run_evaluation(config, subject, home, suite["evaluation"], result["matrix_rates"], say, save)


def _run_train_suite(config: ContestConfig, common, home: Path, rates: dict[str, float], say: Say) -> dict[str, Any]:
    full, val = load_training_data(config.data, data_dir=config.data_dir, seed=config.seed)
    images = choose(full, TRAINING_IMAGES)
    task = training_task(config, common, images) | {"steps": config.train_steps, "val_images": len(val)}
    count = config.rounds or TRAINING_ROUNDS
    say(f"training: {count} rounds of {config.updates} updates of {task['batch_size']} images")
    present, missing = contestants_of(config.norm, torch.device(common["device"]))
    turns = _Turns(images, task, home)
    rounds = _training_rounds(turns, present, count, say)
    say(f"  {EPOCHS} short epochs of robustcls, with validation and files")
    costs = turns.take("epochs")
    model = build(task["arch"], classes=images.classes, input_size=images.pixels.shape[1:])
    flops = (2 * config.train_steps + 3) * forward_flops(model, images.pixels.shape[1:])
    suite = _training_summary(rounds, task, flops, rates)
    return suite | {"missing": missing} | _epoch_summary(costs, suite, len(full))


class _Turns:
    """The turns of the training suite, all on the same images."""

    def __init__(self, images: Images, task: dict[str, Any], home: Path) -> None:
        self.task = task | {"images": hand_over(images, home / "train.images")}
        self.home, self.workload = home, f"pgd{task['steps']}"

    def take(self, contestant: str) -> dict[str, Any]:
        task = self.task | {"contestant": contestant, "workloads": [self.workload]}
        try:
            result = take_turn(self.home, task)
        except TurnError as failure:
            raise InputError(f"bench contestant {contestant!r} failed: {failure}") from None
        result = result.get(self.workload, result)
        if "error" in result:
            raise InputError(f"bench contestant {contestant!r} failed: {result['error']}")
        return result


def _training_rounds(turns: _Turns, contestants: list[str], count: int, say: Say) -> dict[str, list[dict[str, Any]]]:
    """Run each contestant once per round, alone on the machine, so that drift of its speed affects all of them."""
    return by_turns(contestants, count, turns.take, say)


def _training_summary(
    rounds: dict[str, list[dict[str, Any]]], task: dict[str, Any], flops: float, rates: dict[str, float]
) -> dict[str, Any]:
    rows = {}
    for name, results in rounds.items():
        speeds = [result["images_per_second"] for result in results]
        last = results[0]["losses"][-max(1, len(results[0]["losses"]) // 2) :]
        rows[name] = {
            "images_per_second": statistics.median(speeds),
            "ratio": _ratio(results, rounds[BASELINE]),
            "ratio_to_torchattacks": _ratio(results, rounds[TORCHATTACKS]) if TORCHATTACKS in rounds else None,
            "share_of_limit": statistics.median(speeds) * flops / rates.get(results[0]["precision"], rates["fp32"]),
            "loss_second_half": statistics.mean(last),
            "precision": results[0]["precision"],
            "peak_memory_mb": max(result["peak_memory_mb"] for result in results),
        }
    return {"task": task, "flops_per_image": flops, "rows": rows, "rounds": rounds}


def _ratio(own: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    return statistics.median(a["images_per_second"] / b["images_per_second"] for a, b in zip(own, other, strict=True))


def _epoch_summary(costs: dict[str, Any], suite: dict[str, Any], epoch_images: int) -> dict[str, Any]:
    """Add the share of validation time in an epoch of updates on all training images, at the median speed of robustcls."""
    seconds = epoch_images / suite["rows"]["robustcls"]["images_per_second"]
    return costs | {
        "epoch_images": epoch_images,
        "epoch_seconds": seconds,
        "val_share": costs["val_seconds"] / seconds,
    }
