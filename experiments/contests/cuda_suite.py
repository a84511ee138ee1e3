"""The cuda suite: training and evaluation of one architecture, beside other libraries and the matrix rate of this GPU."""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.contests.attack_suite import NobodyFinishedError, run_attack_suite
from experiments.contests.attacking import EXACT
from experiments.contests.config import EVALUATIONS, ContestConfig
from experiments.contests.tables import BASELINE
from experiments.contests.turns import TurnError, hand_over, take_turn
from experiments.contests.workloads import contestants_of
from robustcls.bench import attacking
from robustcls.bench.training import update_flops
from robustcls.data.images import Images

Result = dict[str, Any]
Save = Callable[[], None]


def run_training(
    images: Images, task: Result, workloads: list[str], count: int, home: Path, suite: Result, say, save: Save
) -> None:
    """Fill `suite`; each contestant runs all its workloads in one process, to start only once."""
    present, suite["missing"] = contestants_of(task["norm"], torch.device(task["device"]))
    file = hand_over(images, home / "train.images")
    say("  counting the operations of each workload")
    flops = {workload: update_flops(workload, images, task) for workload in workloads}
    rounds: dict[str, list[Result]] = {name: [] for name in present}
    suite |= {"task": task, "flops_per_image": flops, "rounds": rounds}
    for number in range(count):
        for name, results in rounds.items():
            say(f"  round {number + 1}/{count}: {name}")
            turn = task | {"images": file, "contestant": name, "workloads": workloads}
            try:
                results.append(take_turn(home, turn))
            except TurnError as failure:
                results.append({workload: {"error": str(failure)} for workload in workloads})
            suite["rows"] = {workload: _training_rows(workload, rounds, flops[workload]) for workload in workloads}
            save()


def _training_rows(workload: str, rounds: dict[str, list[Result]], flops: float) -> dict[str, Result]:
    """Return for each contestant the medians over its rounds, and the ratio to the plain loop in the same round."""
    rows: dict[str, Result] = {}
    for name, results in rounds.items():
        own = [result.get(workload) for result in results]
        done = [result for result in own if result and "error" not in result]
        errors = [result["error"] for result in own if result and "error" in result]
        if done:
            speed = statistics.median(result["images_per_second"] for result in done)
            plain = [result.get(workload, {}) for result in rounds[BASELINE]]
            ratios = [
                result["images_per_second"] / other["images_per_second"]
                for result, other in zip(own, plain, strict=False)
                if result and "error" not in result and "error" not in other
            ]
            rows[name] = {
                "images_per_second": speed,
                "flop_per_second": speed * flops,
                "ratio": statistics.median(ratios) if ratios else None,
                "precision": done[0]["precision"],
                "peak_memory_mb": max(result["peak_memory_mb"] for result in done),
                "last_loss": done[0]["losses"][-1],
            }
        elif errors:
            rows[name] = {"error": errors[0]}
    return rows


def run_evaluation(config: ContestConfig, task: Result, home: Path, suite: Result, rates, say, save: Save) -> None:
    """Fill `suite` with the attack contests on one model, their arithmetic per second, and whether they agree."""
    for workload in config.evaluations:
        one = dataclasses.replace(config, contest=(EVALUATIONS[workload],), rounds=config.rounds or 1)
        try:
            (contest,) = run_attack_suite(one, task, home, rates, say).values()
        except NobodyFinishedError as failure:
            suite[workload] = {"error": str(failure)}
            save()
            continue
        for name, row in contest["rows"].items():
            row["flop_per_second"] = _flop_per_second(contest["rounds"][name], contest["subject"]["forward_flops"])
        suite[workload] = contest | {"agreement": agreement(contest["rows"], contest["n"])}
        save()


def _flop_per_second(results: list[Result], forward: float) -> float | None:
    """Compute it from the passes that an evaluation counts; an input gradient costs as much as a forward pass."""
    told = [result for result in results if result.get("attacks")]
    rates = [
        sum(attack["forwards"] + attack["backwards"] for attack in result["attacks"]) * forward / result["seconds"]
        for result in told
    ]
    return statistics.median(rates) if rates else None


def agreement(rows: dict[str, Result], n: int) -> Result:
    """Whether every way of searching reaches the robust accuracy of exact fp32. n: samples."""
    ours = {name: row for name, row in rows.items() if name.startswith("robustcls") and name != EXACT}
    return attacking.agreement(rows[EXACT], ours, n)
