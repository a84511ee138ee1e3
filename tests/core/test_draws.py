"""Random numbers of each sample: correctly distributed, and independent of other samples."""

import math

import pytest
import torch
from torch import Tensor

from robustcls.core.draws import Draws, SampleGenerator, take
from robustcls.core.threat import ThreatModel
from robustcls.training.inner_attack import load_whole

MANY = 20_000
EPS = {"linf": 0.2, "l2": 0.5, "l1": 0.5}
KINDS = {
    "uniform": lambda draws, *shape: draws.uniform(*shape),
    "normal": lambda draws, *shape: draws.normal(*shape),
    "exponential": lambda draws, *shape: draws.exponential(*shape),
    "coins": lambda draws, *shape: draws.coins(*shape).double(),
}
DISTRIBUTION = {
    "uniform": lambda x: x.clamp(0, 1),
    "normal": lambda x: (1 + torch.erf(x / math.sqrt(2))) / 2,
    "exponential": lambda x: 1 - torch.exp(-x),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def grey(n: int, *shape: int, dtype=torch.float32) -> Tensor:
    return torch.full((n, *(shape or (1, 1, 1))), 0.5, dtype=dtype)


def streams(n: int, seed: int = 0, first: int = 0) -> SampleGenerator:
    return SampleGenerator.of(torch.arange(first, first + n), seed)


def distance(values: Tensor, kind: str) -> float:
    """Return Kolmogorov's distance to the closed form of the distribution, times the square root of the number of values. It
    exceeds 1.63 once in 100 times."""
    ordered = DISTRIBUTION[kind](values.flatten().double().sort().values)
    n = len(ordered)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()).item() * math.sqrt(n)


def correlation(a: Tensor, b: Tensor) -> float:
    """Return the correlation times the square root of the number of pairs, which is of order 1 for independent values."""
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item() * math.sqrt(a.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", DISTRIBUTION)
def test_each_is_distributed_as_it_says(kind, dtype):
    along = KINDS[kind](Draws(grey(2, dtype=dtype), streams(2)), MANY)  # draws of one sample
    across = KINDS[kind](Draws(grey(MANY, dtype=dtype), streams(MANY)), 2)  # draws at one position
    assert along.dtype == across.dtype == dtype
    for values in (*along, *across.T):
        assert distance(values, kind) < 1.95


def test_coins_and_bounds():
    draws = Draws(grey(MANY), streams(MANY))
    for coins in (draws.coins(), draws.coins(3)[:, 2], draws.coins(1, 1).flatten()):
        assert abs(coins.double().mean().item() - 0.5) * 2 * math.sqrt(MANY) < 3.5
    values = draws.uniform(50, low=-3, high=2)
    assert -3 <= values.min() < -2.99
    assert 1.99 < values.max() < 2
    assert draws.uniform().shape == (MANY,)
    assert draws.normal(20).isfinite().all()


@every_kind
def test_samples_draws_and_seeds_have_nothing_to_do_with_each_other(kind):
    draw = KINDS[kind]
    generator = streams(MANY)
    first, second = (draw(Draws(grey(MANY), generator), 2) for _ in range(2))
    other = draw(Draws(grey(MANY), streams(MANY, seed=1)), 2)
    pairs = [(first, second), (first, other), (first[:, 0], first[:, 1]), (first[1:], first[:-1])]
    for a, b in pairs:
        assert abs(correlation(a, b)) < 4.5
    long = draw(Draws(grey(3), streams(3)), MANY)
    for a, b in ((long[0], long[1]), (long[1], long[2]), (long[0, 1:], long[0, :-1]), (long[0, 1:], long[1, :-1])):
        assert abs(correlation(a, b)) < 4.5


def test_no_two_samples_share_a_number():
    """Numbers have 53 bits, so the probability that two of 600,000 are equal is about 1 in 50,000."""
    values = torch.cat([
        Draws(grey(500, dtype=torch.float64), generator).uniform(200).flatten()
        for seed in (0, 1, 2)
        for generator in [streams(500, seed)]
        for _ in range(2)
    ])  # fmt: skip
    assert len(values.unique()) == len(values)


@every_kind
def test_a_sample_draws_the_same_in_any_company(kind):
    draw, generator = KINDS[kind], streams(9)
    whole = [draw(Draws(grey(9), generator), 3) for _ in range(3)]
    alone = SampleGenerator.of(torch.tensor([7]), 0)
    assert torch.equal(torch.cat([draw(Draws(grey(1), alone), 3) for _ in range(3)]), torch.stack(whole)[:, 7])

    generator = streams(9)
    draw(Draws(grey(9), generator), 3)
    left = torch.tensor([False, True, False, True, True, False, False, True, False])
    some = take(generator, left)
    assert torch.equal(draw(Draws(grey(4), some), 3), whole[1][left])
    few = take(some, torch.tensor([3, 0]))  # the samples 7 and 1
    assert torch.equal(draw(Draws(grey(2), few), 3), whole[2][[7, 1]])
    # Samples that did not draw are where they were; the others have advanced.
    expected = torch.where(left[:, None], whole[2], whole[1])
    expected[[7, 1]] = draw(Draws(grey(2), take(streams_after(3), torch.tensor([7, 1]))), 3)
    assert torch.equal(draw(Draws(grey(9), generator), 3), expected)


def streams_after(draws: int) -> SampleGenerator:
    generator = streams(9)
    for _ in range(draws):
        Draws(grey(9), generator).uniform(1)
    return generator


def test_the_numbers_are_those_of_the_published_generator():
    """SplitMix64 from state 0 begins with these numbers (in its reference code, and in Java's SplittableRandom)."""
    generator = SampleGenerator(torch.zeros(1, dtype=torch.int64), None, 0, 0)
    bits = Draws(grey(1), generator)._bits((2,))
    assert [value % 2**64 for value in bits.flatten().tolist()] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 2)])
def test_a_random_start_is_uniform_in_the_ball(norm, shape):
    """The distance over eps, to the power of the dimension, is uniform; every direction is as likely as its opposite."""
    x, threat = grey(MANY, *shape), ThreatModel(norm, EPS[norm])
    start = threat.random_start(x, streams(MANY))
    delta = start - x
    size = (threat.distance(start, x).double() / threat.eps) ** x[0].numel()
    assert distance(size, "uniform") < 1.95
    signs = (delta > 0).flatten(1).double()
    assert ((signs.mean(0) - 0.5).abs() * 2 * math.sqrt(MANY)).max() < 4.5
    spread = delta.flatten(1).double().square().mean(0)
    assert spread.max() / spread.min() < 1.1
    if norm == "linf":
        assert distance(delta[:, -1, -1, -1] / (2 * threat.eps) + 0.5, "uniform") < 1.95


def test_other_numbers_of_samples_draw_as_torch_does():
    """A third-party attack may draw for a part of the batch, or for copies of it."""
    generator = streams(4)
    twin = torch.Generator().manual_seed(generator.initial_seed())
    found = ThreatModel("linf", 0.1).random_start(grey(3), generator)
    assert torch.equal(found, ThreatModel("linf", 0.1).random_start(grey(3), twin))
    assert torch.equal(torch.rand(5, generator=generator), torch.rand(5, generator=twin))
    views = [take(generator, torch.arange(2)) for _ in range(2)]
    assert not torch.equal(*(torch.rand(5, generator=view) for view in views))


def test_what_is_no_generator_of_samples_is_left_alone():
    plain = torch.Generator()
    assert take(plain, torch.arange(2)) is plain
    assert take(None, torch.arange(2)) is None
    torch.manual_seed(3)
    found = Draws(grey(2), None).normal(4)
    torch.manual_seed(3)
    assert torch.equal(found, torch.randn(2, 4))
    assert streams(0).take(torch.arange(0)).rows.shape == (0,)


# The results of these attacks with a torch generator for the whole batch, as in training. The values were recorded before
# samples had generators of their own.
AS_EVER = {
    ("pgd(steps=3)", "linf"): (-0.10, -0.10, 0.10, 0.10),
    ("pgd(steps=3)", "l2"): (-0.17268, -0.251678, 0.295341, 0.330196),
    ("pgd(steps=3)", "l1"): (0.288097, 0.032854, 0.5, -0.147913),
    ("fgsm(random_start=True)", "linf"): (-0.1, -0.046356, 0.098019, 0.1),
    ("fgsm(random_start=True)", "l2"): (0.004719, -0.213685, 0.302117, 0.392044),
    ("fgsm(random_start=True)", "l1"): (0.288097, 0.032854, 0.5, -0.147913),
    ("n_fgsm", "linf"): (-0.101497, 0.007289, 0.096037, 0.258578),
    ("n_fgsm", "l2"): (0.25, -0.347721, 0.440798, 0.5),
    ("n_fgsm", "l1"): (0.5, 0.275729, 0.5, -0.5),
}
NEXT = {"linf": 0.455628, "l2": 0.161029, "l1": 0.185231}  # the next number that the generator draws


class Sum(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


@pytest.mark.parametrize(("spec", "norm"), AS_EVER)
def test_training_draws_what_it_always_drew(spec, norm):
    generator, x = torch.Generator().manual_seed(0), grey(2, 1, 2, 2)
    threat = ThreatModel(norm, {"linf": 0.1, "l2": 0.5, "l1": 1.0}[norm])
    x_adv = load_whole(spec)(Sum(), x, torch.tensor([0, 1]), threat, generator=generator)
    assert (x_adv - x).flatten()[[0, 1, 6, 7]].tolist() == pytest.approx(AS_EVER[spec, norm], abs=2e-6)
    assert torch.rand(1, generator=generator).item() == pytest.approx(NEXT[norm], abs=1e-6)


@pytest.mark.gpu
@every_kind
def test_cuda_draws_what_the_cpu_draws(kind):
    on_cpu = KINDS[kind](Draws(grey(50), streams(50)), 300)
    on_cuda = KINDS[kind](Draws(grey(50).cuda(), SampleGenerator.of(torch.arange(50), 0, "cuda")), 300).cpu()
    exact = kind in ("uniform", "coins")  # no transcendental function has rounded them
    assert torch.equal(on_cpu, on_cuda) if exact else torch.allclose(on_cpu, on_cuda, rtol=1e-5, atol=1e-6)
