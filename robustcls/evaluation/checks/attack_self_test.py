"""Whether the attacks work at all: on a model that is easy to break."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustcls.attacks._hyperplane import to_hyperplane
from robustcls.core.errors import InputError
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import NotRun, broken, check, stream_of
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.results.records import Check

NAME = "attack_self_test"
# Radii are multiples of the distance needed. They are larger for minimum-norm attacks, whose steps fit no radius, and for
# attacks without gradients, which have to search.
TRIED, NEEDED_LINF, RADIUS, MINIMUM_NORM_RADIUS, BLIND_RADIUS, QUERIES = 32, 0.002, 1.5, 4.0, 8.0, 1000
WHOLE = {"skip": 0, "within": 1.0, "look": 0}  # options that keep an attack from running on all samples
UNDIRECTED = ("noise", "blur", "contrast", "salt_and_pepper")  # baselines that do not search
BROKE_WARN, BROKE_FAIL = 0.95, 0.8
LARGEST_SIDE, MOST_CLASSES, CELLS = 32, 10, 4


@check(310, thorough=True)
def attack_self_test(engine: Engine, outcome: Outcome) -> Check:
    """Whether each attack breaks an undefended linear model in a ball that surely contains an example for every sample.

    Left out are baselines that do not search, such as noise, and attacks that need all images at once or the whole box.
    """
    threat = replace(engine.threat, mask=None, eight_bit=False)
    seed = mix(engine.seed, stream_of(NAME))
    model, x, y, needed = linear_model(engine.x.shape[1:], outcome.num_classes, threat, seed)
    toy = replace(
        engine.subject, model=model.to(engine.device), x=x, y=y, index=torch.arange(len(x)), files=None, surrogate=None,
        aim=None,
    )  # fmt: skip
    on_toy = Engine(toy, engine.batch_size, seed=engine.seed)
    shares: dict[str, float] = {}
    skipped = []
    for number, attack in enumerate(outcome.attacks):
        traits = attack.traits
        if attack.name in UNDIRECTED or traits.unrestricted or traits.universal:
            skipped.append(attack.name)
            continue
        within = MINIMUM_NORM_RADIUS if traits.minimum_norm else RADIUS
        ball = threat.at(needed * (within if traits.gradients else BLIND_RADIUS))
        try:
            able = attack.bounded({"queries": QUERIES}, max)
            able = able.but(**{name: value for name, value in WHOLE.items() if name in able.options})
            shares[str(attack)] = broken(on_toy, able, torch.arange(len(x)), ball, (NAME, number)).float().mean().item()
        except (AttackError, InputError):
            skipped.append(attack.name)
    if not shares:
        raise NotRun(f"no attack can be tried on a linear model: {', '.join(skipped)}")
    least = min(shares.values())
    what = f"each attack broke at least {least:.1%} of {len(x)} samples of an undefended linear model"
    if skipped:
        what += f" ({', '.join(skipped)} not tried)"
    if least >= BROKE_WARN:
        return Check(NAME, "pass", least, BROKE_WARN, what)
    weak = " and ".join(f"{spec} broke {share:.1%}" for spec, share in shares.items() if share < BROKE_WARN)
    what = f"on an undefended linear model, where all {len(x)} samples can be broken, {weak}"
    advice = "such an attack is broken or far too weak, and its survivors are no sign of robustness: fix or replace it"
    status, threshold = ("warn", BROKE_WARN) if least >= BROKE_FAIL else ("fail", BROKE_FAIL)
    return Check(NAME, status, least, threshold, f"{what}; {advice}")


def linear_model(
    shape: Sequence[int], num_classes: int, threat: ThreatModel, seed: int
) -> tuple[nn.Module, Tensor, Tensor, float]:
    """Return a linear model, samples N,C,H,W with labels N, and the distance within which each has an adversarial example.

    Two classes compete and all others lie far below, so that the distance to the boundary is known exactly and every loss
    points to it. The weights have one sign over each cell of the image, since attacks without gradients try squares. Their
    sizes are of one order of magnitude but all different, since in l1 the largest weight decides. Large images are cropped.
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
    # Skip the initialisation, which would draw from the caller's random numbers.
    layer = nn.utils.skip_init(nn.Linear, len(w), min(num_classes, MOST_CLASSES))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(-10)
        for label, sign in enumerate((-0.5, 0.5)):
            layer.weight[label] = sign * w
            layer.bias[label] = -sign * 0.5 * w.sum()
    model = nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)
    return model, images, (side > 0).long(), needed
