"""What a full report shows beside the attacks: measured one after another, each left out with its reason."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.progress import duration
from robustcls.core.threat import NORMS
from robustcls.evaluation.budget import FEWEST, Budget, lowered, too_long
from robustcls.evaluation.calibration import measure_calibration
from robustcls.evaluation.config import ReportConfig
from robustcls.evaluation.corrupted import measure_corruptions
from robustcls.evaluation.explanations import explain_judged
from robustcls.evaluation.gallery import make_gallery
from robustcls.evaluation.minimum import measure_minimum, minimum_of_cascade
from robustcls.evaluation.norm_curves import measure_other_curves
from robustcls.evaluation.pace import Pace, measure_pace
from robustcls.evaluation.subject import Subject
from robustcls.results.records import Evaluation

CUT_OFF = "the evaluation was cut off before this part was measured"


@dataclass
class Part:
    """One part of a report."""

    section: str  # its key in `Evaluation.not_run`
    option: str  # that says how many samples it takes; "" where it takes all
    count: int
    title: str
    measure: Callable[[int], None]  # on so many samples
    fewest: int = 1  # samples, for it to say anything

    def seconds(self, pace: Pace) -> float:
        return self.count * pace.of_part(self.section)


def complete(
    subject: Subject,
    found: Evaluation,
    config: ReportConfig,
    methods: Sequence[str],
    batch_size: int,
    *,
    budget: Budget | None = None,
    pace: Pace | None = None,
    say: Callable[[str], None] = lambda text: None,
    done: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Adds to an evaluation all that the configuration asks for, in place, and returns it.

    methods: attribution methods that the model carries. budget: the time that the parts may take: each is measured on as
    many samples as it holds, or left out; no limit by default. pace: of the model, measured here where it is not given.
    say: told what comes next, and what it will take. done: called before the first part and after each, since what
    follows may take long, or fail. A part that the model or the data do not allow is left out with its reason. The time
    that the parts take is added to the evaluation's.
    """
    budget = budget or Budget()
    found.profile = config.profile
    if config.checks == "passive":
        found.not_run["diagnostics"] = _left_out("checks passive", config)
    if not config.eps_grid:
        found.not_run["curves"] = "accuracy was measured at one eps; give several with --eps-grid auto"
    elif not found.curve:
        found.not_run.setdefault("curves", "an attack that leaves every small ball has no curve over radii")
    found.minimum = minimum_of_cascade(found) or None
    every = _parts(subject, found, config, methods, batch_size, say)
    for part in every:
        option = f"{part.option.replace('_', '-')} 0"
        found.not_run[part.section] = CUT_OFF if part.count else _left_out(option, config)
    if config.maps_n and not methods:
        found.not_run["stability"] = "the model carries none of the methods"
    done()  # hours of attacks may lie behind
    ahead = [part for part in every if part.count]
    if pace is None:
        told = len(ahead) > 1 and (budget.minutes is not None or not config.quiet)
        corruptions = any(part.section == "corruptions" for part in ahead)
        pace = measure_pace(subject.model, subject.x, methods, corruptions=corruptions) if told else Pace(0.0, 0.0)
    while ahead:
        began = time.perf_counter()
        _measure(ahead.pop(0), ahead, found, budget, pace, say)
        found.provenance.seconds = round(found.provenance.seconds + time.perf_counter() - began, 3)
        done()
    return found


def _parts(
    subject: Subject,
    found: Evaluation,
    config: ReportConfig,
    methods: Sequence[str],
    batch_size: int,
    say: Callable[[str], None],
) -> list[Part]:
    seed, show = config.seed, not config.quiet

    def calibration(_: int) -> None:
        found.calibration = measure_calibration(subject, found, batch_size=batch_size, progress=show)

    def gallery(n: int) -> None:
        found.gallery = make_gallery(subject, found, methods, n, seed, batch_size, progress=show)

    def stability(n: int) -> None:
        found.explanations = explain_judged(
            subject.model, found, methods, n, seed,
            progress=show, on_method=lambda method: say(f"measuring the maps of {method}"),
        )  # fmt: skip

    def other_curves(n: int) -> None:
        norms = [norm for norm in NORMS if norm != found.threat.norm]
        found.other_curves = measure_other_curves(
            subject, found, norms, n=n, batch_size=batch_size, seed=seed, progress=show
        )

    def minimum(n: int) -> None:
        found.minimum = measure_minimum(subject, found, n=n, batch_size=batch_size, seed=seed, progress=show)

    def corruptions(n: int) -> None:
        published = Path(config.corruptions_from) if config.corruptions_from else None
        found.corruptions = measure_corruptions(
            subject, n=n, batch_size=batch_size, seed=seed, published=published, progress=show
        )

    total = len(subject.y)
    stands = int(found.examples.correct.sum())  # only these have maps that are compared
    most = total if not config.corruptions_from else config.corruptions_n
    return [
        Part("calibration", "", total, "calibration", calibration),
        Part("gallery", "examples", min(config.examples, total), "attribution maps of examples", gallery),
        Part("stability", "maps_n", min(config.maps_n, stands or 1) if methods else 0, "measures of maps", stability),
        Part(
            "other_curves",
            "curves_n",
            min(config.curves_n, total),
            "security curves in other norms",
            other_curves,
            FEWEST,
        ),
        Part("minimum", "minimum_n", min(config.minimum_n, total), "minimum perturbations", minimum, FEWEST),
        Part(
            "corruptions", "corruptions_n", min(config.corruptions_n, most), "common corruptions", corruptions, FEWEST
        ),
    ]


def _measure(
    part: Part, ahead: Sequence[Part], found: Evaluation, budget: Budget, pace: Pace, say: Callable[[str], None]
) -> None:
    """Measures a part on as many samples as the budget holds, or leaves it out with its reason."""
    each, count = pace.of_part(part.section), part.count
    if part.option:  # what takes all samples takes next to nothing
        count = budget.fitting(part.option, count, each, [later.seconds(pace) for later in ahead])
    if count < min(part.fewest, part.count):
        found.not_run[part.section] = too_long(part.seconds(pace), budget)
        say(f"{part.title}: {found.not_run[part.section]}")
        return
    if count < part.count:
        found.reduced[part.section] = lowered(part.count, count, budget)
    text = f"{part.title}: {count} samples" + (f", about {duration(count * each)}" if each else "")
    say("; ".join(filter(None, (text, found.reduced.get(part.section)))))
    try:
        part.measure(count)
        del found.not_run[part.section]
    except InputError as error:
        found.not_run[part.section] = str(error)
        say(f"left out: {error}")


def _left_out(option: str, config: ReportConfig) -> str:
    return f"left out by --{option} (--profile {config.profile})"
