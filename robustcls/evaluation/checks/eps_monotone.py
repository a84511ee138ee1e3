"""Whether an attack finds fewer adversarial examples in a larger ball."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import broken, check, correct_rows, need_gradients, verdict_of_count
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

NAME = "eps_monotone"
SPEC = "pgd(steps=10)"


@check(260, thorough=True)
def eps_monotone(engine: Engine, outcome: Outcome) -> Check:
    """Whether PGD breaks fewer samples in a larger ball, although it contains the smaller one."""
    need_gradients(engine)
    rows, threat = correct_rows(engine, outcome), engine.threat
    radii = [threat.at(threat.eps * factor) for factor in (0.5, 1, 2)]
    counts = [int(broken(engine, SPEC, rows, ball, (NAME, i)).sum()) for i, ball in enumerate(radii)]
    fewer = max(0, counts[0] - counts[1], counts[1] - counts[2])
    listed = ", ".join(f"{count} at {ball.eps_text}" for count, ball in zip(counts, radii, strict=True))
    advice = "give the attack more steps, and add attacks without gradients"
    return verdict_of_count(
        NAME, fewer, len(rows), f"of {len(rows)} samples {SPEC} broke {listed}",
        f"it misses examples in the larger ball that it found in the smaller: {advice}",
        f"a larger ball cannot hold fewer examples: gradients are masked or steps too few; robust accuracy is "
        f"overstated: {advice}",
    )  # fmt: skip
