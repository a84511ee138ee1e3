"""Whether a sample's logits change from pass to pass, or with the other images of its batch."""

import math

import torch
from torch import Tensor

from robustcls.core.classifier import dtype_of
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import NotRun, check, passive_rows, verdict
from robustcls.evaluation.checks._wrappers import through_averaged
from robustcls.evaluation.engine import Engine
from robustcls.models.wrappers.averaged import averaged_in
from robustcls.results.records import Check
from robustcls.runtime.memory import OomSafeBatches

NAME = "random_output"
REPEATED = 1e-4  # largest difference between two passes, relative to the largest logit
COMPANY = 1e-3  # the same in another batch; larger, since the position in a batch may change the order of a sum


@check(40)
def random_output(engine: Engine, outcome: Outcome) -> Check:
    """Whether logits change between two identical passes, or in a pass where samples have other positions and neighbours.

    The third pass puts half of the samples in other positions, each next to the negative of another image. It reveals noise
    with a fixed seed, and statistics computed over the batch; for this it needs batches of at least two images. With larger
    batches it has the shape of the first pass, so that cuDNN uses the same algorithm and only rounding differs.
    """
    x, parts = engine.x[passive_rows(engine)].to(engine.device), engine.parts
    logits, again = _logits(engine, x, parts), _logits(engine, x, parts)
    if logits.isnan().any():
        return verdict(
            NAME,
            math.nan,
            REPEATED,
            "some outputs are not numbers",
            "two passes cannot be compared: fix the model first",
        )
    scale = logits.amax(1).abs().max().clamp_min(1e-12)  # the largest logit, because masked ones may be -1e9
    repeated = (_difference(logits, again) / scale).item()
    if averaged_in(engine.subject.model):
        message = f"two passes differ by {repeated:.1e} of the largest logit"
        if repeated <= REPEATED:
            message += (
                ": nothing random was found: the model is not random, and one pass says as much as the mean of several"
            )
            return Check(NAME, "warn", repeated, None, f"{message}; leave out averaged and the suite rand")
        message += ": the model is random, and its accuracy is also measured over repeated passes"
        return Check(NAME, "pass", repeated, None, message)
    if not repeated <= REPEATED:
        return verdict(
            NAME,
            repeated,
            REPEATED,
            f"two passes differ by {repeated:.1e} of the largest logit",
            f"the model is random: attack its expectation (EOT), one pass is not a verdict: {through_averaged(engine)}",
        )
    half = len(x) // 2
    beside = torch.stack([1 - x[: len(x) - half], x[half:].flip(0)], 1).flatten(0, 1)
    try:
        moved = _logits(engine, beside, OomSafeBatches(max(parts.size, 2)))[1::2].flip(0)
    except Exception as failure:
        if parts.size > 1:
            raise
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise NotRun(f"two passes are alike, but two images cannot pass together: {reason}") from None
    elsewhere = (_difference(logits[half:], moved) / scale).item()
    return verdict(
        NAME,
        max(repeated, elsewhere),
        max(COMPANY, 4 * torch.finfo(dtype_of(engine.model)).eps),
        f"two passes differ by {repeated:.1e} of the largest logit, {elsewhere:.1e} in another batch",
        "a sample's logits depend on the rest of the batch, so no example is valid by itself: make the model treat each image "
        "independently",
    )


@torch.no_grad()
def _logits(engine: Engine, x: Tensor, parts: OomSafeBatches) -> Tensor:
    return torch.cat(list(parts.map(lambda part: engine.model(part).float(), x)))


def _difference(logits: Tensor, others: Tensor) -> Tensor:
    """Return the largest absolute difference; equal infinities count as equal."""
    return (logits - others).abs().where(logits != others, 0).max()
