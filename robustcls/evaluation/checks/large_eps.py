"""Whether attacks reach chance level in a ball that contains an image without content."""

import math
from dataclasses import replace

import torch

from robustcls.core.losses import predict_labels
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import NotRun, broken, check, correct_rows, need_gradients, verdict_of_share
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check
from robustcls.runtime.predict import predict

NAME = "large_eps"
SPEC = "apgd_ce(steps=20)"
# Standard errors above chance. They are generous, because in so large a ball an attack leaves less than chance.
CHANCE_WARN, CHANCE_FAIL = 2, 3


@check(270, thorough=True)
def large_eps(engine: Engine, outcome: Outcome) -> Check:
    """Whether APGD leaves no more than chance in balls that contain uniform grey.

    The attack is APGD, because PGD does not cross a large l1 ball. It starts at the clean image: a random point of so large a
    ball would be misclassified without any gradient.
    """
    need_gradients(engine)
    rows, threat = correct_rows(engine, outcome), engine.threat
    if threat.mask is not None:
        raise NotRun("a mask keeps images from becoming grey")
    x = engine.x[rows]
    ball = replace(threat, eps=max(threat.eps, threat.distance(torch.full_like(x, 0.5), x).max().item()))
    # On grey, the model is right for every sample whose label is the class that it predicts there.
    at_grey = predict_labels(predict(engine.model, torch.full_like(x[:1], 0.5), 1))
    share = (engine.y[rows] == at_grey).float().mean().item()
    chance = max(1 / outcome.num_classes, share)
    error = math.sqrt(chance * (1 - chance) / len(rows))
    warn, fail = chance + CHANCE_WARN * error, chance + CHANCE_FAIL * error
    if warn >= 1:
        raise NotRun(
            f"all samples may stay robust: of {len(rows)} that are classified correctly, {share:.1%} have the label that "
            "the model gives grey"
        )
    left = 1 - broken(engine, SPEC, rows, ball, (NAME, 0), start=engine.x).float().mean().item()
    what = f"{left:.1%} of {len(rows)} samples survive {SPEC} at eps {ball.eps_text}, where every image may become grey"
    advice = "gradients are masked or vanish, so robust accuracy is overstated: attack without gradients too"
    why = (
        f"grey is predicted as class {at_grey.item()}, the label of {share:.1%} of them, so more than {chance:.1%} robust "
        f"samples show that attacks fail: {advice}"
    )
    return verdict_of_share(NAME, left, (warn, fail), what, why, why)
