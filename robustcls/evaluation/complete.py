"""What a full report shows beside the attacks: measured one after another, each left out with its reason."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from robustcls.core.errors import InputError
from robustcls.core.records import Evaluation
from robustcls.core.threat import NORMS
from robustcls.evaluation.calibration import measure_calibration
from robustcls.evaluation.config import ReportConfig
from robustcls.evaluation.corrupted import measure_corruptions
from robustcls.evaluation.explanations import explain_judged
from robustcls.evaluation.gallery import make_gallery
from robustcls.evaluation.judge import Judged
from robustcls.evaluation.minimum import measure_minimum, minimum_of_cascade
from robustcls.evaluation.norm_curves import measure_other_curves

CUT_OFF = "the evaluation was cut off before this part was measured"


def complete(
    model: nn.Module,
    judged: Judged,
    config: ReportConfig,
    methods: Sequence[str],
    batch_size: int,
    *,
    say: Callable[[str], None] = lambda text: None,
    done: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Adds to an evaluation all that the configuration asks for, in place, and returns it.

    methods: attribution methods that the model carries. say: told what comes next. done: called before the first part and
    after each, since what follows may take long, or fail. A part that the model or the data do not allow is left out with
    its reason. The time that the parts take is added to the evaluation's.
    """
    found, seed, show = judged.evaluation, config.seed, not config.quiet
    found.profile = config.profile
    if config.checks == "passive":
        found.not_run["diagnostics"] = _left_out("checks passive", config)
    if not config.eps_grid:
        found.not_run["curves"] = "accuracy was measured at one eps; give several with --eps-grid auto"
    elif not found.curve:
        found.not_run["curves"] = "an attack that leaves every small ball has no curve over radii"

    def calibration() -> None:
        found.calibration = measure_calibration(model, judged, batch_size=batch_size)

    def gallery() -> None:
        found.gallery = make_gallery(model, judged, methods, config.examples, seed, batch_size)

    def stability() -> None:
        found.explanations = explain_judged(
            model, judged, methods, config.maps_n, seed,
            progress=show, on_method=lambda method: say(f"measuring the maps of {method}"),
        )  # fmt: skip

    def other_curves() -> None:
        norms = [norm for norm in NORMS if norm != found.threat.norm]
        found.other_curves = measure_other_curves(
            model, judged, norms, n=config.curves_n, batch_size=batch_size, seed=seed, progress=show
        )

    def minimum() -> None:
        found.minimum = measure_minimum(
            model, judged, n=config.minimum_n, batch_size=batch_size, seed=seed, progress=show
        )

    def corruptions() -> None:
        published = Path(config.corruptions_from) if config.corruptions_from else None
        found.corruptions = measure_corruptions(
            model, judged, n=config.corruptions_n, batch_size=batch_size, seed=seed, published=published, progress=show
        )

    found.minimum = minimum_of_cascade(judged) or None
    parts = (  # section, option, whether it is wanted, what is said of it, how
        ("calibration", "", True, "", calibration),
        ("gallery", "examples", config.examples, f"attribution maps of {config.examples} examples", gallery),
        ("stability", "maps_n", config.maps_n and methods, "", stability),
        ("other_curves", "curves_n", config.curves_n, "security curves in other norms", other_curves),
        ("minimum", "minimum_n", config.minimum_n, "minimum perturbations", minimum),
        ("corruptions", "corruptions_n", config.corruptions_n, "common corruptions", corruptions),
    )
    for section, option, wanted, _, _ in parts:
        found.not_run[section] = CUT_OFF if wanted else _left_out(f"{option.replace('_', '-')} 0", config)
    if config.maps_n and not methods:
        found.not_run["stability"] = "the model carries none of the methods"
    done()  # hours of attacks may lie behind
    for section, _, wanted, title, measure in parts:
        if not wanted:
            continue
        if title:
            say(title)
        began = time.perf_counter()
        try:
            measure()
            del found.not_run[section]
        except InputError as error:
            found.not_run[section] = str(error)
            say(f"left out: {error}")
        found.provenance.seconds = round(found.provenance.seconds + time.perf_counter() - began, 3)
        done()
    return found


def _left_out(option: str, config: ReportConfig) -> str:
    return f"left out by --{option} (--profile {config.profile})"
