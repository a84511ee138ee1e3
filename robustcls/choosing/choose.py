"""Successive halving over recipes with equal training time, ranked by the lower bound of robust validation accuracy."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustcls.choosing.candidates import Candidate, candidates
from robustcls.choosing.config import ChooseConfig
from robustcls.choosing.halving import pareto, ranked, seed_noise, share_out, survivors
from robustcls.choosing.latency import latency_of
from robustcls.choosing.record import Choice, Comparison, Contender, Rung, Trial
from robustcls.choosing.shared import make_all
from robustcls.choosing.work import PARTS, Say, Work
from robustcls.core.config import resolve
from robustcls.core.errors import InputError
from robustcls.core.progress import follow
from robustcls.core.provenance import commit, versions
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.results.subject import Provenance, Threat
from robustcls.runtime.device import describe_device, resolve_device
from robustcls.training.checkpoint import fresh_folder
from robustcls.training.run import Run


def choose(
    arch: str | Sequence[str] = (),
    *,
    config: str | Path | Sequence[str | Path] = (),
    minutes: float | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Choice:
    """Choose the best of several recipes in a given time by successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943).

    In each rung, every remaining recipe is trained from scratch for the same number of seconds. The better half is kept,
    ranked by the lower end of the 95% interval of robust accuracy on validation images. Test images are never read.

    Args:
        arch: candidates that differ only in the architecture: specs as for `train`.
        config: candidates that are whole recipes: TOML files.
        minutes: time of all training runs together (default: 10).
        out: folder for the runs and choose.json; the same call continues in it.
        progress: show progress on stderr.
        options: the other options of `robustcls choose`, such as `data`, `adv`, `limit_train`, `seed_noise`, `learning_curve`.

    Returns:
        The record: `.winner`, with its checkpoint `.home / .best.folder / "ckpt.pt"`; `.rungs`; `.rivals`, the comparisons of
        the winner with all others; and `.open`, the rivals that cannot be told apart from the winner.

    Raises:
        InputError: if candidates are not comparable or cannot be trained, or if the time is too short; raised before training.
        KeyboardInterrupt: on Ctrl-C or SIGTERM; the state is saved, and the same call continues.

    Example:
        >>> choice = robustcls.choose(["vgg16(width=0.25)", "resnet18(width=0.25)"], data="cifar10", minutes=12, out="choice")
        >>> choice.winner, choice.best.robust, [rival.second for rival in choice.open]
    """
    listed = {
        name: (str(value),) if isinstance(value, str | Path) else tuple(map(str, value))
        for name, value in (("arch", arch), ("config", config))
    }
    given = {**options, **listed, "minutes": minutes, "out": None if out is None else str(out), "quiet": not progress}
    return choose_given({name: value for name, value in given.items() if value is not None}, command="robustcls.choose")


def choose_given(
    given: Mapping[str, Any],
    *,
    say: Say = lambda text: None,
    on_rung: Callable[[int, Rung], object] = lambda number, rung: None,
    on_batch: Callable[[Run], object] = lambda run: None,
    on_folder: Callable[[Path], object] = lambda where: None,
    command: str = "",
) -> Choice:
    """Run a choice, for `robustcls.choose` and the command.

    Args:
        given: the options of ChooseConfig that the user set.
        say: called with progress messages.
        on_rung, on_batch: called after each rung and each batch.
        on_folder: called with the output folder before any training.
        command: the command line, for the record.
    """
    began, started = time.perf_counter(), datetime.now(UTC)
    options = resolve(ChooseConfig, given)
    all_candidates = candidates(options, given)
    _take_own_device()
    where = _folder(options, all_candidates[0])
    work = Work(options, all_candidates, where, say, on_batch)
    budget = share_out(60 * options.minutes, len(all_candidates), _extra(options))
    plan = work.plan(budget)
    on_folder(where)
    rungs: list[Rung] = []
    left = [one.name for one in all_candidates]
    for number, seconds in enumerate(budget.rungs, start=1):
        trials = work.rung(number, left, seconds, rungs[-1].trials if rungs else [])
        order = ranked(
            {trial.name: trial.chooses for trial in trials},
            {trial.name: [digit == "1" for digit in trial.clean_right] for trial in trials},
        )
        left = survivors(order)
        rungs.append(Rung.of(seconds, sorted(trials, key=lambda trial: order.index(trial.name)), left))
        on_rung(number, rungs[-1])
    if rungs[-1].trials[0].failed:
        raise InputError(f"every candidate failed; the last: {rungs[-1].trials[0].failed}")
    seeds = work.seeds(rungs[-1].trials[0], budget.extra)
    curve = work.curve(rungs[-1].trials[0], budget.extra)

    def conclude(_: str) -> Choice:
        provenance = Provenance(
            command, asdict(options), all_candidates[0].config.seed, versions(),
            describe_device(resolve_device(options.device)), commit(), started.isoformat(timespec="seconds"),
            round(time.perf_counter() - began, 3), options.precision,
        )  # fmt: skip
        return _conclude(work, plan.candidates, rungs, seeds, curve, provenance)

    choice = make_all({"choose": where / "choose.json"}, Choice, conclude)["choose"]
    choice.home = where
    return choice


def _conclude(
    work: Work,
    contenders: Sequence[Contender],
    rungs: Sequence[Rung],
    seeds: Sequence[Trial],
    curve: Sequence[Trial],
    provenance: Provenance,
) -> Choice:
    best, config = rungs[-1].trials[0], next(iter(work.candidates.values())).config
    noise = seed_noise([trial.score.accuracy for trial in seeds]) if len(seeds) > 1 else None
    first, why = {trial.name: trial for trial in rungs[0].trials}, {}
    for one in follow(contenders, "exporting", "candidate", show=not work.options.quiet):
        one.latency_ms, why[one.name] = latency_of(work.where / first[one.name].folder / "ckpt.pt", one.config["arch"])
    reasons = sorted({reason for reason in why.values() if reason})
    timed = all(one.latency_ms is not None for one in contenders)
    figures = {
        one.name: (
            first[one.name].score.accuracy, first[one.name].clean.accuracy, -one.parameters, -one.mflop,
            *([-(one.latency_ms or 0.0)] if timed else []),
        )
        for one in contenders if not first[one.name].failed
    }  # fmt: skip
    for one in contenders:
        one.pareto = one.name in pareto(figures)
    rivals = []
    for number, rung in enumerate(rungs, start=1):
        trials = {trial.name: trial for trial in rung.trials}
        out = [name for name in trials if name not in rung.kept]
        rivals += [Comparison.of(trials[best.name], trials[name], f"rung {number}", noise or 0.0) for name in out]
    threat = ThreatModel(config.norm, parse_eps(config.eps))  # type: ignore[arg-type]
    under = f"robust accuracy under {config.val_attack}" if best.robust else "clean accuracy"
    return Choice(
        winner=best.name,
        data=str(config.data),
        threat=Threat(threat.norm, threat.eps, threat.eps_text),
        chosen_by=f"{under} on {best.score.total} validation images",
        minutes=work.options.minutes,
        candidates=list(contenders),
        rungs=list(rungs),
        rivals=rivals[::-1],  # the candidate that was eliminated last comes first
        provenance=provenance,
        seeds=list(seeds),
        noise=noise,
        curve=list(curve),
        more_data=_more_data(curve, noise or 0.0),
        larger_model=_larger(contenders, rungs, noise or 0.0) if curve else None,
        remark=f"latency was not measured: {'; '.join(reasons)}" if reasons else "",
    )


def _more_data(curve: Sequence[Trial], noise: float) -> Comparison | None:
    """Return the comparison of all images with half of them."""
    if not curve:
        return None
    half, whole = curve[-2:]
    return Comparison.of_images(whole, half, noise)


def _larger(contenders: Sequence[Contender], rungs: Sequence[Rung], noise: float) -> Comparison | None:
    """Return the comparison of the winner with the next larger (or else smaller) candidate, in their last common rung."""
    best, size = rungs[-1].trials[0].name, {one.name: one.parameters for one in contenders}
    order = sorted((one for one in size if one == best or size[one] != size[best]), key=size.__getitem__)
    if len(order) < 2:
        return None
    place = min(order.index(best), len(order) - 2)
    small, large = order[place : place + 2]
    number, rung = max(
        (number, rung)
        for number, rung in enumerate(rungs, 1)
        if {small, large} <= {trial.name for trial in rung.trials}
    )
    trials = {trial.name: trial for trial in rung.trials}
    return Comparison.of(trials[large], trials[small], f"rung {number}", noise)


def _extra(options: ChooseConfig) -> int:
    """Return the number of trials beyond the rungs."""
    return options.seed_noise + (len(PARTS) if options.learning_curve else 0)


def _folder(options: ChooseConfig, first: Candidate) -> Path:
    if options.out:
        where = Path(options.out)
        if any((where / name).exists() for name in ("last.pt", "ckpt.pt")):
            raise InputError(f"{where} already holds a run of `robustcls train`: name another `out`")
        return where
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("the processes of torchrun must agree on a folder: give `out=DIR`")
    return fresh_folder("choose", first.config.data or "digits")


def _take_own_device() -> None:
    """Let each process that torchrun started on a machine use its own GPU."""
    import torch

    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
