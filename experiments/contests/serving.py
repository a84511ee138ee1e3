"""The serve suite: `robustcls serve` beside FastAPI with eager PyTorch and with ONNX Runtime, on the same model and images."""

import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

import robustcls
from experiments.contests.config import ContestConfig
from robustcls.bench.service import Contestant, Payload
from robustcls.bench.serving import Subject, ours
from robustcls.bench.suites import serve_suite, served_subject
from robustcls.core.options import parse_numbers
from robustcls.models.artefact import is_artefact
from robustcls.results.artefact import MODEL

EAGER, ONNX = "FastAPI, eager torch, JSON", "FastAPI, onnxruntime, JSON"
RATIOS = {"ratio": EAGER, "ratio_to_onnxruntime": ONNX}
NEEDS = ("fastapi", "uvicorn")
RAY = ("ray", "robustcls.serving.ray_engine")
ON_RAY = ("--engine", "ray", "--replicas", "1")


def run_serve_suite(config: ContestConfig, common: dict[str, Any], home: Path, say: Callable[[str], None]) -> dict:
    """Run all contestants in turns; throughput ratios are computed within a round. Raises InputError."""
    subject = served_subject(config, common, home, say)
    checkpoint = None if config.model and is_artefact(config.model) else config.model or home / "bench" / "quick.pt"
    model = None if checkpoint is None else _module(str(checkpoint), config, home)
    present, missing = contestants_of(subject, config.deadline, model)
    for line in missing:
        say(f"  left out: {line}")
    suite = serve_suite(present, subject, config, say)
    add_ratios(suite)
    suite["about"] += "; ratio: throughput relative to FastAPI with eager torch, and with ONNX Runtime"
    return suite | {"missing": missing}


def contestants_of(subject: Subject, deadline: float, model: Path | None) -> tuple[list[Contestant], list[str]]:
    """Return the contestants that can take part, and why others cannot. model: the file of the whole module."""
    present, missing = ours(subject, deadline), []
    if all(map(importlib.util.find_spec, RAY)):
        present += ours(subject, deadline, ON_RAY)[:1]
    else:
        missing.append("robustcls on Ray: not installed: pip install 'robustcls[ray]'")
    lacking = [package for package in NEEDS if importlib.util.find_spec(package) is None]
    if lacking:
        missing.append(
            f"FastAPI: {', '.join(lacking)} not installed: pip install -r experiments/contests/requirements.txt"
        )
        return present, missing
    present.append(_fastapi(ONNX, "fastapi_onnxruntime", subject, subject.folder / MODEL, subject.manifest.kind))
    if model is None:
        missing.append(f"{EAGER}: --model is an artefact: give the checkpoint that it was exported from")
    else:
        present.append(_fastapi(EAGER, "fastapi_torch", subject, model, "fp32"))
    return present, missing


def add_ratios(suite: dict[str, Any]) -> None:
    """Add to each row the median ratio of its throughput to that of each FastAPI service in the same round."""
    for name, row in suite["rows"].items():
        for key, other in RATIOS.items():
            ratios = [
                own["requests_per_second"] / reference["requests_per_second"]
                for own, reference in zip(suite["rounds"][name], suite["rounds"].get(other, ()), strict=False)
                if "error" not in own and "error" not in reference
            ]
            if ratios:
                row[key] = statistics.median(ratios)


def _fastapi(name: str, module: str, subject: Subject, model: Path, precision: str) -> Contestant:
    command = [
        sys.executable, "-m", "uvicorn", f"experiments.contests.{module}:app", "--host", "127.0.0.1", "--port", "{port}",
        "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    bodies = [
        json.dumps({"pixels": (one / numpy.float32(255)).tolist()}).encode() for one in subject.pixels.astype("float32")
    ]
    payloads = [Payload(body, {"Content-Type": "application/json"}) for body in bodies]
    environment = ("CONTEST_MODEL", str(model)), ("CONTEST_CLASSES", json.dumps(subject.manifest.classes))
    return Contestant(name, command, "/predict", payloads, lambda answer: answer["label"], environment, precision)


def _module(spec: str, config: ContestConfig, home: Path) -> Path:
    """Save the whole module, in eval mode, and return the file."""
    file = home / "module.pt"
    mean, std = parse_numbers(config.mean, "mean"), parse_numbers(config.std, "std")
    torch.save(robustcls.load(spec, arch=config.arch, mean=mean, std=std).cpu().eval(), file)
    return file
