"""Self-checks of an evaluation that attack: whether stronger attacks find more, and whether the attacks work at all.

After the checklists of Carlini et al. 2019 (arXiv:1902.06705) and Athalye et al. 2018 (arXiv:1802.00420). Each takes the
engine, the outcome of the cascade, its threat model and its specs, and meets a hundred samples at most.
"""

import math
from collections.abc import Callable, Sequence
from functools import wraps

import torch
from torch import Tensor, nn

from robustcls.attacks._hyperplane import to_hyperplane
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import predict_labels
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.diagnostics import NOTHING_RIGHT, check_count, check_nearest, is_differentiable, not_run
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.evaluation.nearest import nearest
from robustcls.results.records import Check
from robustcls.runtime.predict import predict

AttackCheck = Callable[[Engine, Outcome, ThreatModel, Sequence[str]], Check]

SAMPLES = 100  # at most, of each check
FEW = 16  # samples where one is as good as a hundred, or where an attack is repeated that takes long
# Forwards and backwards of a repeated attack: a share of the cascade's, or so many where that is less.
REPEATED, PASSES = 0.25, 8000
ITERATIVE = "pgd(steps=10)"
SHORT = {"steps": 5, "queries": 20, "restarts": 1, "targets": 1, "draws": 2}  # options where only the radius matters
# Standard errors above chance. An attack in so large a ball leaves less than chance, so they are generous.
CHANCE_WARN, CHANCE_FAIL = 2, 3
# The self-test. Radii as multiples of the distance that is needed. A minimum-norm attack knows no radius that its steps
# could fit; an attack without gradients has to search for its way.
TRIED, NEEDED_LINF, RADIUS, MINIMUM_NORM_RADIUS, BLIND_RADIUS, QUERIES = 32, 0.002, 1.5, 4.0, 8.0, 1000
UNDIRECTED = ("noise", "blur", "contrast", "salt_and_pepper")  # baselines that look for no example
BROKE_WARN, BROKE_FAIL = 0.95, 0.8
LARGEST_SIDE, MOST_CLASSES, CELLS = 32, 10, 4


class _NotRun(Exception):
    """Why a check says nothing."""


def _named(name: str) -> Callable[[Callable[..., Check]], AttackCheck]:
    """Gives a check its id: where an attack breaks off, or the check does not apply, it was not run."""

    def wrap(body: Callable[..., Check]) -> AttackCheck:
        @wraps(body)
        def check(engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
            if reason := engine.over():
                return not_run(name, reason)
            try:
                return body(name, engine, outcome, threat, attacks)
            except _NotRun as reason:
                return not_run(name, str(reason))
            except (AttackError, InputError) as failure:
                return not_run(name, f"an attack of this check broke off: {failure}")
            except Exception as failure:  # the cascade's hours are worth more than one check
                lines = str(failure).splitlines() or ["no message"]
                return not_run(name, f"this check broke off: {type(failure).__name__}: {lines[0]}")

        return check

    return wrap


@_named("inference_optimisation")
def inference_optimisation(name: str, engine: Engine, *_: object) -> Check:
    """Whether the model backpropagates while it predicts, or keeps what it saw (Croce et al. 2022, arXiv:2202.13711).

    A buffer of one number is taken for a counter.
    """
    model, x = engine.judge, engine.x[:FEW].to(engine.device)
    before = {key: tensor.detach().clone() for key, tensor in _state(model)}
    passes = 0

    def unpack(saved: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        return saved

    try:
        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
            for _ in engine.parts.map(model, x):
                pass
    except RuntimeError as failure:
        if "saved tensor hooks" not in str(failure):  # what torch.func, which takes gradients, says of them
            raise AttackError(str(failure).splitlines()[0]) from failure
        passes = 1
    changed = [
        key for key, tensor in _state(model)
        if key not in before or (tensor.numel() > 1 and not _same(tensor, before[key]))
    ]  # fmt: skip
    with torch.no_grad():
        for key, tensor in _state(model):  # only what changed: an expanded buffer cannot be written to
            if key in before and tensor.shape == before[key].shape and not _same(tensor, before[key]):
                tensor.copy_(before[key])
    what = "the model backpropagates while it predicts" if passes else "the model keeps what it saw: "
    if passes or changed:
        if not passes:
            what += f"{changed[0]} changed in a forward pass"
        mend = (
            "it is an adaptive test-time defence, which attacks that do not know of it overrate: attack the whole "
            "procedure, unrolled or by transfer, and judge the static model beside it"
        )
        return Check(name, "fail", float(passes or len(changed)), 0.0, f"{what}; {mend}")
    if not is_differentiable(model):
        raise _NotRun("the model gives no gradients, so what it does inside cannot be seen")
    return Check(name, "pass", 0.0, 0.0, f"a forward pass of {len(x)} samples took no gradient and changed nothing")


@_named("single_step_beats_iterative")
def single_step_beats_iterative(
    name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]
) -> Check:
    """Whether FGSM breaks more than PGD does, which cannot be where gradients lead the way."""
    _need_gradients(engine, threat)
    met = _right(engine, outcome, SAMPLES)
    single, iterative = (_broken(engine, spec, met, threat, name, i) for i, spec in enumerate(("fgsm", ITERATIVE)))
    more = max(0, int(single.sum()) - int(iterative.sum()))
    what = f"of {len(met)} samples fgsm broke {int(single.sum())} and {ITERATIVE} {int(iterative.sum())}"
    mend = "add attacks without gradients, or with other losses and restarts"
    return check_count(
        name, more, len(met), what, f"steps may be too large or gradients masked: {mend}",
        f"gradients mislead the iterative attack, so robust accuracy is overstated: {mend}",
    )  # fmt: skip


@_named("doubled_steps")
def doubled_steps(name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether the strongest gradient attack breaks more with twice the steps: then it had not converged."""
    return _doubled(name, "steps", engine, outcome, threat, attacks)


@_named("doubled_restarts")
def doubled_restarts(name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether the strongest gradient attack breaks more with twice the restarts: then luck decided."""
    return _doubled(name, "restarts", engine, outcome, threat, attacks)


@_named("doubled_targets")
def doubled_targets(name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether the strongest targeted attack breaks more towards twice as many classes: then it left some out."""
    return _doubled(name, "targets", engine, outcome, threat, attacks)


@_named("eps_monotone")
def eps_monotone(name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether PGD breaks fewer samples in a larger ball, which holds all that the smaller one does."""
    _need_gradients(engine, threat)
    met = _right(engine, outcome, SAMPLES)
    radii = [threat.at(threat.eps * factor) for factor in (0.5, 1, 2)]
    counts = [int(_broken(engine, ITERATIVE, met, ball, name, i).sum()) for i, ball in enumerate(radii)]
    fewer = max(0, counts[0] - counts[1], counts[1] - counts[2])
    found = ", ".join(f"{count} at {ball.eps_text}" for count, ball in zip(counts, radii, strict=True))
    mend = "give the attack more steps, and add attacks without gradients"
    return check_count(
        name, fewer, len(met), f"of {len(met)} samples {ITERATIVE} broke {found}",
        f"it misses examples in the larger ball that it found in the smaller: {mend}",
        f"a larger ball cannot hold fewer examples: gradients are masked or steps too few; robust accuracy is "
        f"overstated: {mend}",
    )  # fmt: skip


@_named("large_eps")
def large_eps(name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether APGD leaves no more than chance where every ball reaches uniform grey, an image without any content.

    APGD, for PGD does not cross a large ball of l1. It starts at the clean image: a random point of so large a ball would
    be broken without any gradient.
    """
    _need_gradients(engine, threat)
    met = _right(engine, outcome, SAMPLES)
    x = engine.x[met]
    ball = ThreatModel(threat.norm, max(threat.eps, threat.distance(torch.full_like(x, 0.5), x).max().item()))
    spec = "apgd_ce(steps=20)"
    # A model is right at grey on every sample of the class that it predicts there.
    at_grey = predict_labels(predict(engine.judge, torch.full_like(x[:1], 0.5), 1))
    share = (engine.y[met] == at_grey).float().mean().item()
    chance = max(1 / outcome.num_classes, share)
    error = math.sqrt(chance * (1 - chance) / len(met))
    warn, fail = chance + CHANCE_WARN * error, chance + CHANCE_FAIL * error
    if warn >= 1:
        raise _NotRun(
            f"all samples may stand: of {len(met)} that the model gets right {share:.1%} have the label that it gives grey"
        )
    left = 1 - _broken(engine, spec, met, ball, name, 0, start=engine.x).float().mean().item()
    what = f"{left:.1%} of {len(met)} samples survive {spec} at eps {ball.eps_text}, where every image may become grey"
    if left <= warn:
        return Check(name, "pass", left, warn, what)
    mend = "gradients are masked or vanish, so robust accuracy is overstated: attack without gradients too"
    status, threshold = ("warn", warn) if left <= fail else ("fail", fail)
    return Check(
        name,
        status,
        left,
        threshold,
        f"{what}; grey has one label, class {at_grey.item()}, which {share:.1%} of them have, so that more than "
        f"{chance:.1%} standing shows attacks that fail: {mend}",
    )


@_named("eps_zero")
def eps_zero(name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether the attacks, cut short, break anything at eps = 0, where only the clean image is allowed."""
    met, ball = _right(engine, outcome, FEW), ThreatModel(threat.norm, 0)
    broken, tried, skipped = torch.zeros(len(met), dtype=torch.bool), 0, ""
    for number, spec in enumerate(attacks):
        try:
            broken |= _broken(engine, _with(spec, SHORT, min), met, ball, name, number)
            tried += 1
        except (AttackError, InputError) as failure:
            skipped = f"{plugins.parse('attack', spec).name}: {failure}"
    if not tried:
        raise _NotRun(f"no attack of the cascade runs at eps = 0 ({skipped})")
    count = int(broken.sum())
    what = f"{count} of {len(met)} samples were broken at eps = 0 by {tried} of {len(attacks)} attacks"
    mend = (
        "the model does not give a clean image its own prediction again: make it deterministic and independent of the "
        "batch, for every number here is off by as much"
    )
    return Check(name, "fail" if count else "pass", count / len(met), 0.0, f"{what}; {mend}" if count else what)


@_named("transfer")
def transfer(name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether examples of another model break what a white-box attack does not: then gradients are masked."""
    if not engine.crafts_elsewhere:
        raise _NotRun("no adversarial examples of another model were tried; give --transfer-from")
    if not is_differentiable(engine.judge):
        raise _NotRun("the model gives no gradients, so there is no white-box attack to compare with")
    if threat.is_whole_box:
        raise _NotRun("every image is allowed, so anything breaks it")
    _right(engine, outcome, 1)
    met = _spaced(engine, (outcome.broken_by >= 0).nonzero().squeeze(1), SAMPLES)
    if len(met) == 0:
        raise _NotRun("the examples of the other model broke nothing, so there is nothing to compare")
    white = Engine(
        engine.judge.model, engine.x[met], engine.y[met], batch_size=engine.batch_size, seed=engine.seed,
        index=engine.index[met],
    )  # fmt: skip
    spec = "pgd(steps=20)"
    missed = int((~_broken(white, spec, torch.arange(len(met)), threat, name, 0)).sum())
    mend = "attack this model without gradients too"
    return check_count(
        name, missed, len(met),
        f"of {len(met)} samples that the other model's examples broke, {spec} on this model leaves {missed}",
        f"a white-box attack should be the stronger one: {mend}",
        f"gradients of this model are masked, so its white-box robust accuracy is overstated: {mend}",
    )  # fmt: skip


@_named("noise_baseline")
def noise_baseline(name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether random noise of the same norm breaks what the gradient attacks left."""
    _need_gradients(engine, threat)
    white = [
        number for number, spec in enumerate(attacks)
        if traits_of(plugins.load("attack", spec)).gradients and not outcome.attacks[number].error
    ]  # fmt: skip
    if not white:
        raise _NotRun("no attack used gradients, so there is nothing to compare")
    if outcome.fooled is not None:
        left = (outcome.clean == engine.y) & ~outcome.fooled[white].any(0)
    else:
        left = outcome.standing(engine.y) | (outcome.broken_by > white[-1])
    _right(engine, outcome, 1)
    met = _spaced(engine, left.nonzero().squeeze(1), SAMPLES)
    if len(met) == 0:
        raise _NotRun("gradient attacks left nothing to break")
    spec = "noise(draws=10)"
    count = int(_broken(engine, spec, met, threat, name, 0).sum())
    mend = "use more steps and restarts, and attacks without gradients"
    return check_count(
        name, count, len(met), f"{spec} broke {count} of {len(met)} samples that gradient attacks left",
        f"the attacks are weak: {mend}",
        f"the attacks are weaker than chance, so robust accuracy is overstated: {mend}",
    )  # fmt: skip


@_named("attack_self_test")
def attack_self_test(name: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]) -> Check:
    """Whether each attack breaks an undefended linear model in a ball that holds an example of every sample for sure.

    Baselines such as noise look for no example, and what needs all images at once or the whole box attacks nothing of
    this kind: they are left out.
    """
    model, x, y, needed = linear_model(engine.x.shape[1:], outcome.num_classes, threat, mix(engine.seed, _stream(name)))
    toy = Engine(model.to(engine.device), x, y, batch_size=engine.batch_size, seed=engine.seed)
    shares: dict[str, float] = {}
    skipped = []
    for number, spec in enumerate(attacks):
        traits, parsed = traits_of(plugins.load("attack", spec)), plugins.parse("attack", spec)
        if parsed.name in UNDIRECTED or traits.unrestricted or traits.universal:
            skipped.append(parsed.name)
            continue
        within = MINIMUM_NORM_RADIUS if traits.minimum_norm else RADIUS
        ball = threat.at(needed * (within if traits.gradients else BLIND_RADIUS))
        try:
            broken = _broken(toy, _with(spec, {"queries": QUERIES}, max), torch.arange(len(x)), ball, name, number)
            shares[str(parsed)] = broken.float().mean().item()
        except (AttackError, InputError):
            skipped.append(parsed.name)
    if not shares:
        raise _NotRun(f"no attack can be tried on a linear model: {', '.join(skipped)}")
    least = min(shares.values())
    what = f"each attack broke at least {least:.1%} of {len(x)} samples of an undefended linear model"
    if skipped:
        what += f" ({', '.join(skipped)} not tried)"
    if least >= BROKE_WARN:
        return Check(name, "pass", least, BROKE_WARN, what)
    weak = " and ".join(f"{spec} broke {share:.1%}" for spec, share in shares.items() if share < BROKE_WARN)
    what = f"on an undefended linear model, where all {len(x)} samples can be broken, {weak}"
    mend = "such an attack is broken or far too weak, and what it leaves is no sign of robustness: mend or replace it"
    status, threshold = ("warn", BROKE_WARN) if least >= BROKE_FAIL else ("fail", BROKE_FAIL)
    return Check(name, status, least, threshold, f"{what}; {mend}")


ATTACK_CHECKS: tuple[AttackCheck, ...] = (
    inference_optimisation,
    single_step_beats_iterative,
    doubled_steps,
    doubled_restarts,
    doubled_targets,
    eps_monotone,
    large_eps,
    eps_zero,
    transfer,
    noise_baseline,
    attack_self_test,
)


def linear_model(
    shape: Sequence[int], num_classes: int, threat: ThreatModel, seed: int
) -> tuple[nn.Module, Tensor, Tensor, float]:
    """A linear model, samples N,C,H,W of it with labels N, and the distance within which each has an adversarial example.

    Two classes compete and the others lie far below, so that the way to the boundary is exact and every loss shows it.
    The weights have one sign over cells of the image, since attacks without gradients try squares, and sizes of one order
    but no two alike, since in l1 the largest leads the way. Large images are cut.
    """
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape[0], *(min(side, LARGEST_SIDE) for side in shape[1:])
    cells = torch.randint(2, (1, channels, CELLS, CELLS), generator=generator) * 2.0 - 1
    w = nn.functional.interpolate(cells, (height, width)).flatten()
    w = w * (0.5 + torch.rand(len(w), generator=generator))
    w = w / (w.abs().sum() * NEEDED_LINF)  # a step of this size across all pixels changes the logits' difference by 1
    x = 0.3 + 0.4 * torch.rand(TRIED, len(w), generator=generator)
    side = torch.arange(TRIED) % 2 * 2.0 - 1
    x = x + ((side - (x - 0.5) @ w) / (w @ w))[:, None] * w
    delta = to_hyperplane(threat.norm, x, w.expand_as(x), (0.5 * w.sum()).expand(TRIED))
    images = x.view(TRIED, channels, height, width)
    needed = threat.distance((x + delta).view_as(images), images).max().item()
    layer = nn.Linear(len(w), min(num_classes, MOST_CLASSES))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(-10)
        for label, sign in enumerate((-0.5, 0.5)):
            layer.weight[label] = sign * w
            layer.bias[label] = -sign * 0.5 * w.sum()
    model = nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)
    return model, images, (side > 0).long(), needed


def _doubled(
    name: str, option: str, engine: Engine, outcome: Outcome, threat: ThreatModel, attacks: Sequence[str]
) -> Check:
    _need_gradients(engine, threat)
    _right(engine, outcome, 1)
    number = _strongest(outcome, attacks, option)
    parsed, record = plugins.parse("attack", attacks[number]), outcome.attacks[number]
    options = dict(parsed.options) | {option: 2 * plugins.resolved("attack", parsed)[option]}
    spec = plugins.Spec(parsed.name, (), tuple(options.items()))
    standing = outcome.standing(engine.y).nonzero().squeeze(1)
    if len(standing) == 0:
        raise _NotRun("the attacks left nothing to break")
    cost = 2 * (record.forwards + record.backwards) / max(record.attacked, 1)
    passes = sum(record.forwards + record.backwards for record in outcome.attacks)
    most = min(max(int(max(REPEATED * passes, PASSES) / max(cost, 1)), FEW), SAMPLES)
    met = nearest(engine, outcome, standing, most)
    count = int(_broken(engine, str(spec), met, threat, name, 0).sum())
    mend = f"the attack has not converged: judge with more {option}"
    return check_nearest(
        name, count, len(met), len(engine.y), str(spec), mend, f"robust accuracy is overstated, for {mend}"
    )


def _strongest(outcome: Outcome, attacks: Sequence[str], option: str) -> int:
    """The gradient attack with this option that alone leaves the least, or, in a cascade, that came last."""
    able = []
    for number, spec in enumerate(attacks):
        traits, value = traits_of(plugins.load("attack", spec)), plugins.resolved("attack", spec).get(option)
        if (
            traits.gradients and not traits.minimum_norm and not traits.universal
            and type(value) is int and value > 0 and not outcome.attacks[number].error
        ):  # fmt: skip
            able.append(number)
    if not able:
        raise _NotRun(f"no gradient attack of the cascade that kept to the ball has the option {option}")
    left = {number: outcome.attacks[number].alone for number in able}
    return min(able, key=lambda number: (alone.accuracy if (alone := left[number]) else 0.0, -number))


def _need_gradients(engine: Engine, threat: ThreatModel) -> None:
    if not is_differentiable(engine.judge):
        raise _NotRun("the model gives no gradients, so no gradient attack can be compared")
    if engine.crafts_elsewhere:
        raise _NotRun("the gradients are another model's, so they say nothing of this one")
    if threat.is_whole_box:
        raise _NotRun("every image is allowed, so any attack wins")
    if threat.eps == 0:
        raise _NotRun("eps is 0, so there is nothing to attack")


def _right(engine: Engine, outcome: Outcome, most: int) -> Tensor:
    """Samples that the model gets right, spread evenly: indices. Without any, the check was not run."""
    met = _spaced(engine, (outcome.clean == engine.y).nonzero().squeeze(1), most)
    if len(met) == 0:
        raise _NotRun(NOTHING_RIGHT)
    return met


def _spaced(engine: Engine, indices: Tensor, most: int) -> Tensor:
    return indices[spaced(engine.y[indices], most)]


def _stream(name: str) -> int:
    return mix(*name.encode())


def _broken(
    engine: Engine, spec: str, met: Tensor, threat: ThreatModel, name: str, number: int, start: Tensor | None = None
) -> Tensor:
    """Whether the attack breaks each of the samples met, with random numbers of the check's own."""
    attack, _ = engine.load(spec)
    fooled = torch.zeros(len(engine.y), dtype=torch.bool)
    for found in engine.attack(attack, met, threat, (_stream(name), number), start=start):
        fooled[found.indices] = found.fooled
    return fooled[met]


def _with(spec: str, bounds: dict[str, int], bound: Callable[[int, int], int]) -> str:
    """The spec with each whole number among these options brought to its bound, by min or by max."""
    parsed, values = plugins.parse("attack", spec), plugins.resolved("attack", spec)
    changed = {key: bound(values[key], limit) for key, limit in bounds.items() if type(values.get(key)) is int}
    return str(plugins.Spec(parsed.name, (), tuple((dict(parsed.options) | changed).items())))


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _same(tensor: Tensor, before: Tensor) -> bool:
    return tensor.shape == before.shape and torch.equal(tensor.nan_to_num(), before.nan_to_num())
