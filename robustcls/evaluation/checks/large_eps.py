"""Whether the attacks reach chance in a ball that holds an image without any content."""

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
# Standard errors above chance. An attack in so large a ball leaves less than chance, so they are generous.
CHANCE_WARN, CHANCE_FAIL = 2, 3


@check(270, thorough=True)
def large_eps(engine: Engine, outcome: Outcome) -> Check:
    """Whether APGD leaves no more than chance where every ball reaches uniform grey.

    APGD, for PGD does not cross a large ball of l1. It starts at the clean image: a random point of so large a ball would
    be broken without any gradient.
    """
    need_gradients(engine)
    rows, threat = correct_rows(engine, outcome), engine.threat
    if threat.mask is not None:
        raise NotRun("a mask keeps images from becoming grey")
    x = engine.x[rows]
    ball = replace(threat, eps=max(threat.eps, threat.distance(torch.full_like(x, 0.5), x).max().item()))
    # A model is right at grey on every sample of the class that it predicts there.
    at_grey = predict_labels(predict(engine.model, torch.full_like(x[:1], 0.5), 1))
    share = (engine.y[rows] == at_grey).float().mean().item()
    chance = max(1 / outcome.num_classes, share)
    error = math.sqrt(chance * (1 - chance) / len(rows))
    warn, fail = chance + CHANCE_WARN * error, chance + CHANCE_FAIL * error
    if warn >= 1:
        raise NotRun(
            f"all samples may stay robust: of {len(rows)} that the model gets right {share:.1%} have the label that it "
            "gives grey"
        )
    left = 1 - broken(engine, SPEC, rows, ball, (NAME, 0), start=engine.x).float().mean().item()
    what = f"{left:.1%} of {len(rows)} samples survive {SPEC} at eps {ball.eps_text}, where every image may become grey"
    advice = "gradients are masked or vanish, so robust accuracy is overstated: attack without gradients too"
    why = (
        f"grey has one label, class {at_grey.item()}, which {share:.1%} of them have, so that more than {chance:.1%} "
        f"robust samples show attacks that fail: {advice}"
    )
    return verdict_of_share(NAME, left, (warn, fail), what, why, why)
