"""No point of a ball has a margin below its bound: random networks, our attacks, and deliberately broken bounds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcls.certification import bounds, layers
from robustcls.certification.bounds import METHODS, certify_bounds
from robustcls.core import plugins
from robustcls.core.threat import ThreatModel
from tests.helpers.random_networks import ACTIVATIONS, CLASSES, KINDS, margins, points_in, random_network

ROUNDING = 1e-4  # of the logits, which the network computes in float32
ATTACKS = ("fgsm", "pgd(steps=5)")

drawn = given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    gain=st.floats(0.5, 4.0),
    norm=st.sampled_from(["linf", "l2"]),
    share=st.floats(0.002, 0.5),
)


def violation(seed: int, kind: str, activation: str, gain: float, norm: str, share: float) -> float:
    """Return how far a margin in the ball lies below its bound, relative to the logits; above 0 if a bound is violated.

    share: the radius, as a share of a radius at which little is left of the image (1 in linf, 4 in l2).
    """
    model = random_network(seed, kind, activation, gain)
    x = torch.rand(16, 2, 6, 6).round(decimals=1)  # some pixels lie at the edge of the box
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % CLASSES  # some labels are wrong
    threat = ThreatModel(norm, share if norm == "linf" else 4 * share)
    found = certify_bounds(model, x, y, threat)
    points = [x, points_in(x, threat, 4)]
    for attack in ATTACKS:
        x_adv = plugins.load("attack", attack)(model, x, y, threat, generator=torch.Generator().manual_seed(seed))
        assert not (found.certified & (model(x_adv).argmax(1) != y)).any(), attack
        points.append(x_adv)
    worst = -torch.inf
    scale = model(x).abs().amax().item()
    for each in points:
        times = len(each) // len(x)
        below = found.margins.repeat_interleave(times, 0) - margins(model, each, y.repeat_interleave(times))
        worst = max(worst, below[below.isfinite()].amax().item() / scale)
    return worst - ROUNDING


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@drawn
def test_no_attack_and_no_point_comes_below_a_bound(**case):
    """This checks 80 networks of 40 kinds with 16 images each and 7 points per ball: 9,000 points, 18,000 margins."""
    assert violation(**case) <= 0


@settings(max_examples=10, deadline=None)
@drawn
def test_crown_is_at_least_as_tight_as_crown_ibp_and_that_as_intervals(seed, kind, activation, gain, norm, share):
    model = random_network(seed, kind, activation, gain)
    x, y = torch.rand(8, 2, 6, 6), torch.arange(8) % CLASSES
    found = [certify_bounds(model, x, y, ThreatModel(norm, share), method=method).margins for method in METHODS]
    assert (found[1] >= found[0]).all()
    assert (found[2] >= found[1]).all()


def cases(count: int):
    """Yield a fixed selection of the cases of the test above."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(count):
        gain, share = (torch.rand(2, generator=generator) * torch.tensor([3.5, 0.5])).tolist()
        kind, activation = KINDS[seed % len(KINDS)], sorted(ACTIVATIONS)[seed % len(ACTIVATIONS)]
        yield {"seed": seed, "kind": kind, "activation": activation, "gain": gain + 0.5,
               "norm": ("linf", "l2")[seed // 3 % 2], "share": share / 5 + 0.002}  # fmt: skip


def without_offset(self, *inputs):
    found = self._lines(*inputs)
    return found._replace(offset_above=found.offset_above * 0)


def chord_on_both_sides(self, *inputs):
    found = self._lines(*inputs)
    return found._replace(slope_below=found.slope_above, offset_below=found.offset_above)


def signed_spread(self, radius, power=1):
    return torch.nn.functional.linear(radius, self.weight**power)


def without_bias(self, rows, of, lines, shapes):
    (before,), constant = self._back(rows, of, lines, shapes)
    return [before], constant * 0


def half_the_ball(self, x, threat):
    self._init(x, threat.at(threat.eps / 2))


def largest_is_the_first(self, *inputs):
    found = self._lines(*inputs)
    return found._replace(leads=torch.ones_like(found.leads))


BROKEN = {
    "the line above ReLU and the like goes through the origin": (layers.Monotone, "lines", without_offset),
    "the chord lies below, too": (layers.Monotone, "lines", chord_on_both_sides),
    "W r in place of |W| r": (layers.Linear, "spread", signed_spread),
    "biases are left out on the way back": (layers.Linear, "back", without_bias),
    "the radius is halved": (bounds.Region, "__init__", half_the_ball),
    "a max pooling is one of its entries": (layers.MaxPool, "lines", largest_is_the_first),
}


def test_the_cases_that_catch_what_is_broken_pass_as_it_is():
    assert max(violation(**case) for case in cases(25)) <= 0


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_bound_is_caught(what, monkeypatch):
    owner, name, broken = BROKEN[what]
    monkeypatch.setattr(owner, f"_{name.strip('_')}", getattr(owner, name), raising=False)
    monkeypatch.setattr(owner, name, broken)

    def caught(case):
        try:
            return violation(**case) > 0
        except AssertionError:  # certified, and misclassified
            return True

    assert any(caught(case) for case in cases(25))
