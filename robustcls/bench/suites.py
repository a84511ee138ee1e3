"""The suites of `robustcls bench`. Each round measures everything once, so that changes of the machine's speed affect all
measurements alike."""

import gc
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robustcls.bench.attacking import EXACT, WAYS, agreement, time_attacks, ways_of
from robustcls.bench.config import ATTACKS, REQUESTS, TRAININGS, BenchConfig
from robustcls.bench.deploying import add_ratios, variants_of
from robustcls.bench.explaining import time_method
from robustcls.bench.limits import copy_bandwidth, forward_flops, matrix_rates
from robustcls.bench.service import Contestant, cores, of_one_core
from robustcls.bench.serving import Plan, Subject, measure, ours
from robustcls.bench.subject import TRAINING_IMAGES, load_subject, subject_task
from robustcls.bench.training import VARIANTS, Result, Task, time_training, update_flops
from robustcls.core.errors import InputError
from robustcls.core.options import parse_batch_size
from robustcls.core.plugins import names
from robustcls.core.provenance import SERVING, commit, versions
from robustcls.data.images import Images
from robustcls.data.splits import choose, load_split, load_training_data
from robustcls.deploy.artefact import export_spec
from robustcls.deploy.config import ExportConfig
from robustcls.models.artefact import is_artefact
from robustcls.models.loading import LoadedModel
from robustcls.runtime.device import (
    describe_device,
    keep_freed_memory,
    resolve_batch_size,
    resolve_device,
    resolve_precision,
)
from robustcls.runtime.memory import reset_peak_memory

Say = Callable[[str], None]


def run_bench(config: BenchConfig, say: Say, save: Callable[[Result], None]) -> Result:
    """Measure the suites, and return a JSON-ready dict with all rounds and their medians.

    save: called after each table with the results so far.
    """
    keep_freed_memory()
    result, common = describe_machine(config)
    result["copy_bandwidth"] = copy_bandwidth(torch.device(common["device"]))
    for arch in config.archs:
        suites = result["suites"]
        if config.suite == "cuda":
            say(arch)
            suites = suites.setdefault("cuda", {}).setdefault(arch, {})
        with tempfile.TemporaryDirectory() as folder:
            for name, suite in _suites(config, common | {"arch": arch}, Path(folder), say):
                for row in suite["rows"].values():
                    if "flop_per_second" in row:
                        rates = result["matrix_rates"]
                        row["share_of_limit"] = row["flop_per_second"] / rates.get(row["precision"], rates["fp32"])
                suites[name] = suite
                save(result)
    result["matrix_rates_at_the_end"] = matrix_rates(torch.device(common["device"]))
    return result


def describe_machine(config: Any) -> tuple[Result, Task]:
    """Return the head of a result file, and the task settings that all measurements share.

    Raises InputError if the device does not support an option.
    """
    device = resolve_device(config.device)
    resolve_precision(config.precision, device)
    result: Result = {
        "schema": "robustcls/bench/1",
        "device": describe_device(device),
        "versions": versions(),
        "commit": commit(),
        "config": {name: value for name, value in vars(config).items() if value is not None},
        "matrix_rates": matrix_rates(device),
        "suites": {},
    }
    common = {"device": str(device), "seed": config.seed, "norm": config.norm, "eps": config.eps}
    return result, common | {"precision": config.precision}


def training_task(config: Any, task: Task, images: Images) -> Task:
    size = resolve_batch_size(
        parse_batch_size(config.batch_size), images.pixels.shape[1:], torch.device(task["device"])
    )
    return task | {"updates": config.updates, "batch_size": min(size, len(images))}


def _suites(config: BenchConfig, task: Task, folder: Path, say: Say) -> Iterable[tuple[str, Result]]:
    trainings, attacks = ([name for name in config.workloads if name in kind] for kind in (TRAININGS, ATTACKS))
    if config.suite == "serve":
        subject = served_subject(config, task, folder, say)
        yield "serve", serve_suite(ours(subject, config.deadline), subject, config, say)
        return
    explains, deploys = config.suite in ("explain", "all"), config.suite == "deploy"
    data = partial(load_split, data_dir=config.data_dir, seed=config.seed)
    loaded: LoadedModel | None = None
    if attacks or explains or deploys:
        images = choose(data(config.data, "test"), config.n or (10_000 if config.suite == "cuda" else 256))
        if config.model:  # loaded first, so that a wrong model is reported before minutes of training
            loaded = load_subject(subject_task(config, task, folder, say), images)
    if trainings:
        full, _ = load_training_data(config.data, data_dir=config.data_dir, seed=config.seed)
        yield "train", _train(config, task, trainings, choose(full, TRAINING_IMAGES), say)
    if not attacks and not explains and not deploys:
        return
    asked = subject_task(config, task, folder, say)
    loaded = loaded or load_subject(asked, images)
    for note in loaded.notes:
        say(f"  {note}")
    if deploys:
        yield "deploy", _deploy(config, loaded, images, folder, say)
    if explains:
        yield "explain", _explain(config, loaded, images, asked, say)
    if attacks:
        yield "attack", _attack(config, loaded, images, asked, attacks, say)


def _train(config: BenchConfig, task: Task, workloads: list[str], images: Images, say: Say) -> Result:
    task = training_task(config, task, images)
    flops = {workload: update_flops(workload, images, task) for workload in workloads}
    cuda = task["device"].startswith("cuda")
    variants = {
        f"{workload}{suffix}": partial(time_training, workload, images, task, **options)
        for workload in workloads
        for suffix, options in VARIANTS.items()
        if cuda or not options
    }
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, cuda  # the setting of `robustcls train`
    try:
        suite = _measured(variants, config, f"training of {config.updates} updates", say)
    finally:
        torch.backends.cudnn.benchmark = before
    for name, row in suite["rows"].items():
        if "images_per_second" in row:
            row["flop_per_second"] = row["images_per_second"] * flops[name.partition(",")[0]]
    about = f"training, {task['arch']}, {task['norm']} {task['eps']}, batch {task['batch_size']}"
    return {"about": about, "task": task, "flops_per_image": flops, **suite}


def _attack(config: BenchConfig, subject: LoadedModel, images: Images, task: Task, workloads, say: Say) -> Result:
    x, y = images.to(task["device"]).batch()
    flops = forward_flops(subject.model, images.pixels.shape[1:])
    present = ["", *ways_of(x.device)]
    variants = {
        f"{workload}{suffix}": partial(time_attacks, workload, subject.model, x, y, task, way, flops)
        for workload in workloads
        for suffix, way in WAYS.items()
        if way in present
    }
    suite = _measured(variants, config, f"attacks on {len(images)} images", say)
    rows = suite["rows"]
    agreed = {}
    for workload in workloads:
        others = [name for suffix in WAYS if suffix != EXACT and (name := f"{workload}{suffix}") in rows]
        agreed[workload] = agreement(rows[f"{workload}{EXACT}"], {name: rows[name] for name in others}, len(images))
    name = config.model or "quick model"
    about = f"attacks, {name} on {config.data}, {task['norm']} {task['eps']}, n = {len(images)}"
    subject_record = {"name": name, "sha256": subject.sha256, "data": images.sha256(), "forward_flops": flops}
    return {"about": about, "n": len(images), "subject": subject_record, **suite, "agreement": agreed}


def _explain(config: BenchConfig, subject: LoadedModel, images: Images, task: Task, say: Say) -> Result:
    x, y = images.to(task["device"]).batch()
    variants = {
        method: partial(time_method, method, subject.model, x, y, config.seed)
        for method in config.method or names("attribution")
    }
    suite = _measured(variants, config, f"explanations of at most {len(images)} images", say, usual_rounds=1)
    return {"about": f"explanations, {config.model or 'quick model'}", "n": len(images), **suite}


def _deploy(config: BenchConfig, subject: LoadedModel, images: Images, folder: Path, say: Say) -> Result:
    variants = variants_of(subject.model, *images.batch(), folder, say)
    suite = _measured(variants, config, "what runs, on one thread", say)
    add_ratios(suite["rows"])
    name = config.model or "quick model"
    about = f"what runs, {name} on {config.data}, one thread; throughput in batches of 32, of eager: time of one image"
    return {"about": about, "subject": {"name": name, "sha256": subject.sha256}, **suite}


def served_subject(config: Any, task: Task, folder: Path, say: Say) -> Subject:
    """Return the artefact of --model; other models are exported first. Raises InputError."""
    if config.model and is_artefact(config.model):
        return Subject.of(config.model)
    spec = subject_task(config, task, folder, say)["model"]
    made = ExportConfig(arch=config.arch, mean=config.mean, std=config.std, quiet=True)
    return Subject.of(export_spec(spec, folder / "artefact", made, say=lambda line: say(f"  {line}")).folder)


def serve_suite(contestants: Sequence[Contestant], subject: Subject, config: Any, say: Say) -> Result:
    """Measure each service alone on the machine, in rounds of alternating order."""
    plan = Plan(config.n or REQUESTS, config.seconds, config.deadline)
    variants = {one.name: partial(measure, one, subject, plan) for one in contestants}
    suite = _measured(variants, config, "services under load", say, alternate=True)
    server, client = cores()
    placed = (
        "the server on one processor, the client on another" if server is not None else "server and client together"
    )
    name = config.model or "quick model"
    return {
        "about": f"services under load, {name}, one image a request, {placed}; deadline {plan.deadline:g} s",
        "subject": {"name": name, "sha256": subject.manifest.file.sha256, "input_size": subject.manifest.input_size},
        "plan": vars(plan),
        "processors": {"server": server, "client": client, "of_one_core": of_one_core(server, client)},
        "request_bytes": {one.name: len(one.payloads[0].body) for one in contestants},
        "versions": versions(SERVING),
        **suite,
    }


def _measured(
    variants: Mapping[str, Callable[[], Result]],
    config: Any,
    what: str,
    say: Say,
    usual_rounds: int = 3,
    alternate: bool = False,
) -> Result:
    """Measure the variants; return the medians (`rows`) and all rounds. Raises InputError if every measurement failed."""
    say(what)
    count = config.rounds or (1 if config.suite == "cuda" else usual_rounds)
    rounds = by_turns(variants, count, lambda name: attempt(variants[name]), say, alternate)
    rows = {name: _row(results) for name, results in rounds.items()}
    if all("error" in row for row in rows.values()):
        first = next(iter(rows))
        raise InputError(f"{what} failed; {first}: {rows[first]['error']}")
    return {"rows": rows, "rounds": rounds}


def by_turns(
    variants: Iterable[str], count: int, measure: Callable[[str], Result], say: Say, alternate: bool = False
) -> dict[str, list[Result]]:
    """Return the results of each variant, by round. alternate: reverse the order in every second round."""
    rounds: dict[str, list[Result]] = {name: [] for name in variants}
    for number in range(count):
        order = list(rounds)
        for name in reversed(order) if alternate and number % 2 else order:
            say(f"  round {number + 1}/{count}: {name}")
            rounds[name].append(measure(name))
    return rounds


def attempt(measure: Callable[[], Result]) -> Result:
    """Return the measurement, or if it failed, such as on a GPU with too little memory, the error in one line."""
    reset_peak_memory()
    try:
        return measure()
    except Exception as error:  # PyTorch or a model may raise anything
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    finally:
        gc.collect()  # a compiled run is a reference cycle, whose memory the next run needs


def _row(results: list[Result]) -> Result:
    """The median of each number over the rounds that succeeded, or the first error if none did."""
    done = [result for result in results if "error" not in result]
    if not done:
        return {"error": results[0]["error"]}
    numbers: dict[str, list[float]] = {}
    for result in done:
        for name, value in result.items():
            if isinstance(value, float):
                numbers.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in numbers.items()} | {"precision": done[0]["precision"]}
