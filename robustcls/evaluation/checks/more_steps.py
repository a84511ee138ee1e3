"""Whether the gradient attacks have converged."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import (
    NOTHING_LEFT,
    STANDARD,
    NotRun,
    broken_by_probe,
    check,
    compared_attacks,
    nearest,
    verdict_of_nearest,
)
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

NAME = "more_steps"
STEPS = 100  # AutoAttack's
# The first continues from the strongest attempts, which helps on curved loss surfaces; the second begins anew.
PROBE = (f"apgd_ce(steps={STEPS})", f"apgd_t(steps={STEPS}, targets=1)")
# Passes of the probe as a share of the cascade's; smallest and largest number of its samples.
SHARE, PROBED = 0.125, (4, 16)


@check(70)
def more_steps(engine: Engine, outcome: Outcome) -> Check:
    """Whether many more gradient steps break the survivors nearest to the boundary, so that the attacks had not converged.

    Not run if an attack took as many steps already. Without targeted Auto-PGD in the cascade, the check warns but never fails.
    """
    white = compared_attacks(engine, outcome)
    if engine.threat.eps == 0:
        raise NotRun("eps is 0, so there is nothing to attack")
    for number in white:
        attack = outcome.attacks[number]
        if attack.name.startswith("apgd") and attack.options["steps"] >= STEPS:
            raise NotRun(f"{outcome.names[number]} took {STEPS} steps or more already")
    most = int(SHARE * outcome.passes / (2 * STEPS * len(PROBE)))
    rows = nearest(engine, outcome, outcome.robust.nonzero().squeeze(1), min(max(most, PROBED[0]), PROBED[1]))
    if len(rows) == 0:
        raise NotRun(NOTHING_LEFT)
    count, specs = broken_by_probe(NAME, engine, rows, tuple(zip(PROBE, (outcome.x_adv, None), strict=True)))
    advice = f"the attacks have not converged: {STANDARD}"
    # Attacks that the user chose, such as FGSM alone, are known to be weaker, and robust accuracy is reported with their names;
    # the warning says by how much. A cascade with targeted Auto-PGD is expected to be strong.
    strong = any(attack.name == "apgd_t" for attack in outcome.attacks)
    return verdict_of_nearest(
        NAME, count, len(rows), len(engine.y), specs, advice, f"robust accuracy is overstated, because {advice}",
        may_fail=strong,
    )  # fmt: skip
