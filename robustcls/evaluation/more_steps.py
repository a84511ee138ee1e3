"""Self-check: whether the cascade's gradient attacks had converged."""

from collections.abc import Sequence

import torch

from robustcls.core import plugins
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.diagnostics import (
    NOTHING_LEFT,
    STANDARD,
    check_nearest,
    not_run,
    of_gradients,
    why_not_compared,
)
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.evaluation.nearest import nearest
from robustcls.results.records import Check

NAME = "more_steps"
STEPS = 100  # AutoAttack's
# The first goes on where the strongest attempts ended, which pays on bent loss surfaces; the second begins anew.
PROBE = (f"apgd_ce(steps={STEPS})", f"apgd_t(steps={STEPS}, targets=1)")
# Passes of the probe as a share of the cascade's, and bounds of its samples.
SHARE, PROBED = 0.125, (4, 16)
STREAM = mix(*NAME.encode())


def check_more_steps(engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether many more gradient steps break the survivors nearest to the boundary: then the attacks had not converged.

    attacks: the cascade's specs, in its order. Where one of them took as many steps already, there is nothing to learn.
    Without targeted Auto-PGD among them it warns and never fails.
    """
    if reason := why_not_compared(engine, outcome, threat, attacks):
        return not_run(NAME, reason)
    if threat.eps == 0:
        return not_run(NAME, "eps is 0, so there is nothing to attack")
    for number in of_gradients(outcome, attacks):
        parsed = plugins.parse("attack", attacks[number])
        if parsed.name.startswith("apgd") and plugins.resolved("attack", parsed)["steps"] >= STEPS:
            return not_run(NAME, f"{outcome.attacks[number].name} took {STEPS} steps or more already")
    passes = sum(record.forwards + record.backwards for record in outcome.attacks)
    most = int(SHARE * passes / (2 * STEPS * len(PROBE)))
    standing = outcome.standing(engine.y).nonzero().squeeze(1)
    met = nearest(engine, outcome, standing, min(max(most, PROBED[0]), PROBED[1]))
    if len(met) == 0:
        return not_run(NAME, NOTHING_LEFT)
    won = torch.zeros(len(engine.y), dtype=torch.bool)
    for number, (spec, start) in enumerate(zip(PROBE, (outcome.x_adv, None), strict=True)):
        try:
            attack, _ = engine.load(spec)
            for found in engine.attack(attack, met[~won[met]], threat, (STREAM, number), start=start):
                won[found.indices] = found.fooled
        except AttackError as failure:
            return not_run(NAME, f"{spec} broke off: {failure}")
    mend = f"the attacks have not converged: {STANDARD}"
    # Attacks that the user named, such as FGSM alone, are weaker by their nature: the figure bears their names, and this
    # says how much. A cascade with targeted Auto-PGD is believed to have found what there is.
    believed = any(plugins.parse("attack", spec).name == "apgd_t" for spec in attacks)
    return check_nearest(
        NAME, int(won.sum()), len(met), len(engine.y), ", ".join(PROBE), mend,
        f"robust accuracy is overstated, for {mend}", may_fail=believed,
    )  # fmt: skip
