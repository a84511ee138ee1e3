"""Self-checks of an evaluation: signs that gradients, and so the numbers, mislead (Carlini et al. 2019, arXiv:1902.06705)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import device_of, dtype_of
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import NO_ANSWER, cross_entropy, dlr, predict_labels
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.evaluation.nearest import nearest
from robustcls.evaluation.shown import normalised_twice
from robustcls.results.records import Check
from robustcls.runtime.memory import Parts

ZERO_GRADIENTS = 0.05  # share of samples
RANDOM = 1e-4  # share of the largest logit
COMPANY = 1e-3  # the same; larger, for a sample's place in the batch may change the order of a sum
# Samples that speak against the numbers, as (count, share) of those met: what exceeds both warns, or fails.
# Square takes one or two of hundreds from an honest model too (AutoAttack's own tables show it).
WARN, FAIL = (1, 0.01), (2, 0.05)
# Of the nearest survivors alone, as (count, share of all samples, largest share of those met): what was lost at least.
WARN_LOST, FAIL_LOST = (1, 0.005, 0.25), (2, 0.02, 0.5)
# The probe: its forwards as a share of the cascade's passes; its samples, and the queries of each. There are more samples
# than the middle number where each has more queries than theirs, and fewer where each would have less than the least.
PROBE_SHARE, PROBED, QUERIES = 0.1, (8, 16, 100), (200, 700, 5000)
NOTHING_LEFT = "gradient attacks left nothing to break"
MASKED_A_LITTLE = "gradients may be masked a little: {}"
MASKED = "gradients are masked, or the gradient attacks too weak; robust accuracy is overstated: {}"
STANDARD = "run --suite standard"
NOTHING_RIGHT = "the model gets no clean image right, so there is nothing to break"
STREAM = mix(*b"black_box_wins")


def run_checks(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    parts: Parts | None = None,
    handed_in: torch.device | None = None,
    surrogate: nn.Module | None = None,
) -> list[Check]:
    """All self-checks on images x (N,C,H,W), y, on the model's device; the model must be frozen.

    parts: in which the images pass; together unless given. handed_in: where the caller's images were; that of x unless
    given. surrogate: frozen, whose examples it is attacked by.
    """
    parts = parts or Parts(len(x))
    logits, again = _logits(model, x, parts), _logits(model, x, parts)
    return [
        _zero_gradients(model, x, y, predict_labels(logits) != NO_ANSWER, parts),
        _softmax_output(logits),
        normalised_twice(model, x, surrogate),
        _random_output(model, x, logits, again, parts),
        _device(model, handed_in or x.device),
    ]


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor, parts: Parts) -> Tensor:
    return torch.cat(list(parts.map(lambda part: model(part).float(), x)))


def check_black_box(engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether attacks without gradients break what the cascade's gradient attacks left: then those were misled.

    Where the cascade ran such attacks after the last gradient attack (or each attack alone), what they broke decides;
    otherwise, or where it was noise and found little, a short probe of the survivors nearest to the boundary does.
    attacks: the cascade's specs, in its order.
    """
    if reason := why_not_compared(engine, outcome, threat, attacks):
        return not_run("black_box_wins", reason)
    white = of_gradients(outcome, attacks)
    black = [
        number for number, record in enumerate(outcome.attacks)
        if not record.error and number not in white and (outcome.fooled is not None or number > white[-1])
    ]  # fmt: skip
    if black:
        if outcome.fooled is not None:
            left = (outcome.clean == engine.y) & ~outcome.fooled[white].any(0)
            won = outcome.fooled[black].any(0)
        else:
            won = torch.isin(outcome.broken_by, torch.tensor(black))
            left = outcome.standing(engine.y) | won
        names = [outcome.attacks[number].name for number in black]
        check = _black_box_wins(won[left], names)
        # That noise found little means little.
        if check.status == "fail" or any(plugins.parse("attack", attacks[number]).name != "noise" for number in black):
            return check
    forwards = int(PROBE_SHARE * sum(record.forwards + record.backwards for record in outcome.attacks))
    fewer, more = forwards // QUERIES[0], forwards // QUERIES[1]
    most = min(max(fewer, PROBED[0]), PROBED[1]) if more < PROBED[1] else min(more, PROBED[2])
    met = nearest(engine, outcome, outcome.standing(engine.y).nonzero().squeeze(1), most)
    if len(met) == 0:
        return not_run("black_box_wins", NOTHING_LEFT)
    won = torch.zeros(len(engine.y), dtype=torch.bool)
    queries = min(max(forwards // len(met), QUERIES[0]), QUERIES[2])
    # Around the strongest attempts, by small squares; and a little from elsewhere, where these may be no good.
    probe = (
        "noise(draws=4)",
        f"square(queries={queries}, p_init=0.1)",
        f"square(queries={queries // 4})",
    )
    for number, (spec, start) in enumerate(zip(probe, (None, outcome.x_adv, None), strict=True)):
        try:
            attack, _ = engine.load(spec)
            for found in engine.attack(attack, met[~won[met]], threat, (STREAM, number), start=start):
                won[found.indices] = found.fooled
        except AttackError as failure:
            return not_run("black_box_wins", f"{spec} broke off: {failure}")
    return check_nearest(
        "black_box_wins", int(won.sum()), len(met), len(engine.y), ", ".join(probe), MASKED_A_LITTLE.format(STANDARD),
        MASKED.format(STANDARD),
    )  # fmt: skip


def why_not_compared(engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> str:
    """Why another attack says nothing of what the cascade's gradient attacks left; "" where it does."""
    if not is_differentiable(engine.judge):
        return "the model gives no gradients, so there is nothing to compare"
    if engine.crafts_elsewhere:
        return "the gradients are another model's, so there is nothing to compare"
    if threat.is_whole_box:
        return "every image is allowed, so anything wins"
    if not (outcome.clean == engine.y).any():
        return NOTHING_RIGHT
    return "" if of_gradients(outcome, attacks) else "no attack used gradients, so there is nothing to compare"


def of_gradients(outcome: Outcome, attacks: Sequence[str]) -> list[int]:
    """Numbers of the cascade's attacks that used gradients and did not break off."""
    return [
        number for number, spec in enumerate(attacks)
        if traits_of(plugins.load("attack", spec)).gradients and not outcome.attacks[number].error
    ]  # fmt: skip


def _black_box_wins(won: Tensor, names: Sequence[str]) -> Check:
    """won: whether each sample was broken that the gradient attacks had left."""
    count, total = int(won.sum()), len(won)
    if total == 0:
        return not_run("black_box_wins", NOTHING_LEFT)
    what = f"{' and '.join(names)} broke {count} of {total} samples that gradient attacks left"
    mend = "more queries may break still more"
    return check_count("black_box_wins", count, total, what, MASKED_A_LITTLE.format(mend), MASKED.format(mend))


def check_count(name: str, count: int, total: int, what: str, if_warned: str, if_failed: str) -> Check:
    """Judges `count` of `total` samples, which should be none, by WARN and FAIL; the share is what was measured."""
    bounds = [max(least / total, share) for least, share in (WARN, FAIL)]
    return _judge_share(name, count / total, bounds, what, if_warned, if_failed)


def check_nearest(
    name: str, count: int, met: int, n: int, attack: str, if_warned: str, if_failed: str, *, may_fail: bool = True
) -> Check:
    """Judges what an attack took of the nearest survivors, which should be nothing, by WARN_LOST and FAIL_LOST.

    count of met samples, of n in all. The share of those met is what was measured. may_fail: else it warns at most.
    """
    bounds = [min(max(least, share * n) / met, most) for least, share, most in (WARN_LOST, FAIL_LOST)]
    what = (
        f"{attack} broke {count} of the nearest {met} samples that the attacks left: robust accuracy falls by "
        f"{100 * count / n:.1f} points at least"
    )
    return _judge_share(name, count / met, bounds if may_fail else [bounds[0], math.inf], what, if_warned, if_failed)


def _judge_share(name: str, share: float, bounds: Sequence[float], what: str, if_warned: str, if_failed: str) -> Check:
    """bounds: beyond the first it warns, beyond the second it fails."""
    warn, fail = bounds
    if share <= warn:
        return Check(name, "pass", share, warn, what)
    if share <= fail:
        return Check(name, "warn", share, warn, f"{what}; {if_warned}")
    return Check(name, "fail", share, fail, f"{what}; {if_failed}")


def _zero_gradients(model: nn.Module, x: Tensor, y: Tensor, answered: Tensor, parts: Parts) -> Check:
    """answered: N, bool. What names no class is wrong already, so that it needs no gradient."""
    if not is_differentiable(model):
        return not_run("zero_gradients", "the model gives no gradients: only attacks without them can judge it")
    met = answered.nonzero().squeeze(1)
    if len(met) == 0:
        return not_run("zero_gradients", "the model names no class for any of the images looked at")

    def zero(rows: Tensor) -> Tensor:
        gradients = [input_gradient(model, x[rows], y[rows], loss) for loss in (cross_entropy, dlr)]
        return torch.stack([gradient.flatten(1).abs().amax(1) == 0 for gradient in gradients])

    of_entropy, of_ratio = torch.cat(list(parts.map(zero, met)), 1)
    share, both = of_entropy.float().mean().item(), (of_entropy & of_ratio).float().mean().item()
    mend = "gradient attacks cannot move them, so robust accuracy is overstated: attack without gradients too"
    if both <= ZERO_GRADIENTS:
        mend = "the logits are too large for float32, which the DLR loss sees through: use apgd_t, or divide the logits"
    return judge_measure(
        "zero_gradients",
        share,
        ZERO_GRADIENTS,
        f"{share:.1%} of {len(met)} samples have no input gradient of the cross-entropy, {both:.1%} none of the DLR either",
        mend,
    )


def _softmax_output(logits: Tensor) -> Check:
    looks = (logits.min() >= 0) & ((logits.sum(1) - 1).abs() < 1e-4).all()
    if logits.shape[1] == 2:  # or one logit z for two classes, -z/2 and z/2, that a sigmoid has made a probability
        looks |= (logits.sum(1) == 0).all() & (logits[:, 1] >= 0).all() & (logits[:, 1] <= 0.5).all()
    return judge_measure(
        "softmax_output",
        float(looks),
        0.5,
        "outputs look like probabilities" if looks else "outputs are not probabilities",
        "the losses expect logits: hand in the model without its softmax",
    )


def _random_output(model: nn.Module, x: Tensor, logits: Tensor, again: Tensor, parts: Parts) -> Check:
    """Two equal passes, and one in which half of the samples change their places, each beside another's negative.

    The last shows noise of a fixed seed and statistics of the batch, and so holds two images or more whatever the parts.
    Where they are larger its shape is the first one's, so that cuDNN takes the same algorithm and only rounding differs.
    """
    if logits.isnan().any():
        what, mend = "some outputs are not numbers", "two passes cannot be compared: mend the model first"
        return judge_measure("random_output", math.nan, RANDOM, what, mend)
    scale = logits.amax(1).abs().max().clamp_min(1e-12)  # not of masked logits, such as -1e9
    repeated = (_difference(logits, again) / scale).item()
    if not repeated <= RANDOM:
        return judge_measure(
            "random_output",
            repeated,
            RANDOM,
            f"two passes differ by {repeated:.1e} of the largest logit",
            "the model is random: attack its expectation (EOT), one pass is not a verdict",
        )
    half = len(x) // 2
    beside = torch.stack([1 - x[: len(x) - half], x[half:].flip(0)], 1).flatten(0, 1)
    try:
        moved = _logits(model, beside, Parts(max(parts.size, 2)))[1::2].flip(0)
    except Exception as failure:
        if parts.size > 1:
            raise
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        return not_run("random_output", f"two passes are alike, but two images cannot pass together: {reason}")
    elsewhere = (_difference(logits[half:], moved) / scale).item()
    return judge_measure(
        "random_output",
        max(repeated, elsewhere),
        max(COMPANY, 4 * torch.finfo(dtype_of(model)).eps),
        f"two passes differ by {repeated:.1e} of the largest logit, {elsewhere:.1e} in other company",
        "a sample's logits depend on the batch around it: no example holds by itself; make the model see one image alone",
    )


def _difference(logits: Tensor, others: Tensor) -> Tensor:
    """The largest, where equal infinities do not differ."""
    return (logits - others).abs().where(logits != others, 0).max()


def _device(model: nn.Module, handed_in: torch.device) -> Check:
    places = sorted({str(tensor.device) for tensor in (*model.parameters(), *model.buffers())})
    if len(places) > 1:
        mend = "move the whole model to one, with model.to(device)"
        return Check("device", "warn", float(len(places)), 1.0, f"the model lies on {' and '.join(places)}: {mend}")
    if places and handed_in != device_of(model):
        message = f"the images were on {handed_in}, the model is on {places[0]}: the evaluation moved them"
        return Check("device", "warn", 2.0, 1.0, message)
    return Check("device", "pass", 1.0, 1.0, f"model and images are on {handed_in}")


def is_differentiable(model: nn.Module) -> bool:
    return getattr(getattr(model, "model", model), "differentiable", True)


def not_run(name: str, reason: str) -> Check:
    return Check(name, "not_run", None, None, reason)


def judge_measure(name: str, measured: float, threshold: float, what: str, mend: str) -> Check:
    failed = not measured <= threshold
    known = measured if math.isfinite(measured) else None  # JSON has no NaN
    return Check(name, "fail" if failed else "pass", known, threshold, f"{what}; {mend}" if failed else what)
