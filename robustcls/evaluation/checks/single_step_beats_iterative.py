"""Whether a single-step attack breaks more than an iterative one."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import NotRun, broken, check, correct_rows, need_gradients, verdict_of_count
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

NAME = "single_step_beats_iterative"
ITERATIVE = "pgd(steps=10)"


@check(220, thorough=True)
def single_step_beats_iterative(engine: Engine, outcome: Outcome) -> Check:
    """Whether FGSM breaks more samples than PGD, which should not happen if gradients are reliable."""
    need_gradients(engine)
    if engine.subject.detector is not None:
        raise NotRun("the detector rejects images far beyond the boundary, which is where many steps lead")
    rows = correct_rows(engine, outcome)
    single, iterative = (
        int(broken(engine, spec, rows, engine.threat, (NAME, number)).sum())
        for number, spec in enumerate(("fgsm", ITERATIVE))
    )
    advice = "add attacks without gradients, or with other losses and restarts"
    return verdict_of_count(
        NAME, max(0, single - iterative), len(rows),
        f"of {len(rows)} samples fgsm broke {single} and {ITERATIVE} {iterative}",
        f"steps may be too large or gradients masked: {advice}",
        f"gradients mislead the iterative attack, so robust accuracy is overstated: {advice}",
    )  # fmt: skip
