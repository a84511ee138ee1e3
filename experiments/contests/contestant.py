"""One contestant's turn, in its own process: `python -m experiments.contests.contestant TASK.json` prints JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from experiments.contests import attacking, epochs, workloads
from robustcls.bench.subject import load_subject
from robustcls.core.files import atomic_write
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data.images import Images
from robustcls.evaluation.subject import describe_model
from robustcls.runtime.memory import peak_memory_mb


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    content = torch.load(task["images"], weights_only=True)
    images = Images(content["pixels"], content["labels"], tuple(content["classes"]), "bench", flip=False)
    print(json.dumps(take(images, task)))


def take(images: Images, task: dict[str, Any]) -> dict[str, Any]:
    if "contest" in task:
        return attack(images, task)
    if task.get("suite") == "explain":
        from experiments.contests.explaining import take_explain_turn

        return take_explain_turn(images, task)
    if task["contestant"] == "epochs":
        return epochs.epochs(images, task)
    return workloads.take_workloads(images, task)


def attack(images: Images, task: dict[str, Any]) -> dict[str, Any]:
    """Attack, and write examples and verdicts to the file task["answer"], for the bench to verify."""
    model = load_subject(task, images).model
    x, y = images.to(task["device"]).batch()
    threat = ThreatModel(task["norm"], parse_eps(task["eps"]))
    answer = attacking.run_contestant(model, x, y, threat, task)
    with atomic_write(task["answer"], "TMPDIR") as part:
        torch.save({"x_adv": answer.x_adv.detach().cpu(), "stands": answer.stands.cpu()}, part)
    result = {
        "seconds": answer.seconds,
        "precision": answer.precision,
        "peak_memory_mb": peak_memory_mb(),
        "threads": torch.get_num_threads(),
        "weights": describe_model(model).sha256,
    }
    return result | ({"attacks": answer.attacks} if answer.attacks else {})


if __name__ == "__main__":
    main()
