"""The verdict on a sample does not depend on the batch size, the memory or the other samples of the run."""

import json

import pytest
import torch
from torch import Tensor, nn

import robustcls
from robustcls.attacks._nearest import OTHERS, others_of
from robustcls.core.gradients import frozen
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.cascade import run_cascade
from robustcls.evaluation.curves import security_curve
from robustcls.evaluation.measures.minimum.measure import measure as measure_minimum
from robustcls.results.records import Evaluation
from robustcls.runtime.world import World
from tests.helpers.eval_models import evaluated, make_batch, make_engine, make_net

LINF = ThreatModel("linf", 0.02)
# Few draws, so that chance decides on many samples.
ATTACKS = [
    "noise(draws=2)", "square(queries=40)", "pgd(steps=2, restarts=2)",
    "apgd_t(steps=3, targets=2, restarts=4, closest=0.5)",
]  # fmt: skip


def net() -> nn.Module:
    """Return a net in float64, so that the batch size does not affect rounding."""
    return make_net().double()


class Small(nn.Module):
    """A model that has memory for a limited number of images."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.net, self.images = net(), images

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(x)


def judged(model: nn.Module | None = None, rows=slice(None), attacks=ATTACKS, threat=LINF, **options):
    x, y = make_batch()
    index = torch.arange(100, 160)[rows]
    options = {"precision": "fp32", "batch_size": 60, "index": index} | options
    return evaluated(model or net(), x[rows], y[rows], threat, attacks, **options)


def verdicts(found) -> dict[int, tuple]:
    return {s.index: (s.clean, s.adversarial, s.broken_by) for s in found.evaluation.samples}


def assert_alike(found, expected) -> None:
    """Assert that samples in both evaluations have the same verdicts and the same images."""
    assert verdicts(found).items() <= verdicts(expected).items()
    rows = [list(verdicts(expected)).index(index) for index in verdicts(found)]
    assert (found.examples.x_adv - expected.examples.x_adv[rows]).abs().max() < 1e-5


@pytest.fixture(scope="module")
def whole():
    found = judged()
    counts = [attack.broken for attack in found.evaluation.attacks]
    assert all(counts), "each attack decides on some samples"
    assert found.evaluation.robust.correct > 0
    return found


@pytest.mark.parametrize("size", [1, 7, 16])
def test_the_batch_size_decides_nothing_and_is_recorded(size, whole):
    found = judged(batch_size=size)
    assert_alike(found, whole)
    assert found.evaluation.provenance.batch_size == size
    counts = [[(a.attacked, a.broken, a.backwards) for a in e.attacks] for e in (found.evaluation, whole.evaluation)]
    assert counts[0] == counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 11])
def test_memory_decides_nothing_and_what_it_held_is_recorded(images, whole):
    found = judged(Small(images))
    assert_alike(found, whole)
    assert found.evaluation.provenance.batch_size == {1: 1, 11: 8}[images], "60 is halved until the batch fits"


def test_the_automatic_batch_size_is_recorded(whole):
    found = judged(batch_size="auto", attacks=["fgsm"]).evaluation
    assert found.provenance.batch_size == 128 * 32 * 32 // (28 * 28)
    again = Evaluation.from_json(found.to_json())
    assert again.provenance.batch_size == found.provenance.batch_size
    before = json.loads(found.to_json())
    del before["provenance"]["batch_size"]
    assert Evaluation.from_json(json.dumps(before)).provenance.batch_size == 0, "0 stands for not recorded"


@pytest.mark.parametrize("rows", [slice(5, 30), torch.tensor([41, 3, 22, 8, 59]), torch.tensor([17])])
def test_the_other_samples_of_a_run_do_not_matter(rows, whole):
    assert_alike(judged(rows=rows), whole)
    assert_alike(judged(rows=rows, batch_size=3), whole)


def test_random_numbers_differ_by_seed_and_by_sample(whole):
    assert verdicts(judged(seed=1)) != verdicts(whole)
    shifted = judged(index=torch.arange(60))
    assert [v[2] for v in verdicts(shifted).values()] != [v[2] for v in verdicts(whole).values()]


class One(World):
    """One of two processes, which does not wait for the other: `gather` returns only its own result."""

    def gather(self, value):
        return [value]


def test_verdicts_do_not_depend_on_which_process_attacks_a_sample(whole):
    x, y = make_batch()
    parts = []
    with frozen(model := net()):
        for rank in range(2):
            engine = make_engine(model, x, y, batch_size=7, index=torch.arange(100, 160), world=One(rank, 2))
            met = (whole.examples.clean == y).nonzero().squeeze(1)
            parts += list(engine.attack(ATTACKS[0], met, LINF, (0,)))
    indices, fooled = (torch.cat([getattr(part, name) for part in parts]) for name in ("indices", "success"))
    assert sorted(indices.tolist()) == met.tolist()
    assert set(indices[fooled].tolist()) == set((whole.examples.breaker == 0).nonzero().squeeze(1).tolist())


@pytest.mark.slow
def test_curves_and_minimum_perturbations_do_not_depend_on_the_batch_size():
    x, y = make_batch()
    grid, attacks = [0.005, 0.01, 0.04], ["pgd(steps=2)", "square(queries=20)"]
    curves, nearest = [], []
    for size in (5, 60):
        with frozen(model := net()):
            engine = make_engine(model, x, y, LINF, batch_size=size)
            outcome = run_cascade(engine, attacks)
            curves.append([p.robust.correct for p in security_curve(engine, outcome, grid)])
        found = measure_minimum(*judged(attacks=["fgsm"], batch_size=size).on(model), n=12, batch_size=size, seed=0)
        nearest.append([d for norm in found for d in norm.distance])
    assert curves[0] == curves[1]
    assert nearest[0] == pytest.approx(nearest[1], abs=1e-5)


def test_the_public_functions_do_not_depend_on_the_batch_size():
    x, y = make_batch()
    for spec in ("square(queries=30)", "pgd(steps=2, restarts=2)"):
        whole = robustcls.attack(net(), x, y, LINF, spec, batch_size=64, seed=2)
        for size in (1, 7):
            found = robustcls.attack(net(), x, y, LINF, spec, batch_size=size, seed=2)
            assert (found - whole).abs().max() < 1e-5
        first = robustcls.attack(net(), x[:9], y[:9], LINF, spec, seed=2)
        assert (first - whole[:9]).abs().max() < 1e-5
        moved = robustcls.attack(net(), x[20:30], y[20:30], LINF, spec, seed=2, index=torch.arange(20, 30))
        assert (moved - whole[20:30]).abs().max() < 1e-5
    found = [robustcls.evaluate(net(), x, y, LINF, attacks=ATTACKS, batch_size=size) for size in (9, 64)]
    assert [s.broken_by for s in found[0].samples] == [s.broken_by for s in found[1].samples]


class Halves(nn.Module):
    """A model that predicts class 1 if the upper and lower half differ; flat colours and noise are of class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        upper, lower = x.chunk(2, 2)
        apart = (upper.mean((1, 2, 3)) - lower.mean((1, 2, 3))).abs()
        return torch.stack([torch.full_like(apart, 0.25), apart], 1) + self.weight


def halves() -> tuple[Tensor, Tensor]:
    """Return two images of each class, in the order of the classes."""
    x = 0.3 + 0.2 * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[2:, :, :4], x[2:, :, 4:] = 0.9, 0.2
    return x, torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize("spec", ["boundary(steps=5)", "hopskipjump(steps=1, initial_evaluations=9)"])
def test_the_adversarial_starts_do_not_depend_on_the_batch_size(spec):
    x, y = halves()
    l2 = ThreatModel("l2", 13)
    assert (Halves()(x).argmax(1) == y).all()
    made, whole = robustcls.attack(Halves(), x, y, l2, spec), None
    for size in (4, 2, 1):
        found = robustcls.evaluate(Halves(), x, y, l2, attacks=[spec], batch_size=size)
        assert found.attacks[0].censored == found.robust.correct == 0, "images of the other class serve as starts"
        nearest = [next(iter(sample.nearest.values())) for sample in found.samples]
        whole = whole or nearest
        assert nearest == pytest.approx(whole, abs=1e-4)
        assert (robustcls.attack(Halves(), x, y, l2, spec, batch_size=size) - made).abs().max() < 1e-4
    assert {check.id: check.status for check in found.checks}["attack_starts"] == "pass"


@pytest.mark.parametrize(
    ("attacks", "status", "lacking"),
    [
        (["hopskipjump(steps=1)"], "fail", 2),
        (["boundary(steps=5)", "pgd(steps=1)"], "warn", 2),
        (["pgd(steps=50, step_size=0.5)", "hopskipjump(steps=1)"], "pass", 0),
        (["pgd(steps=1)"], None, 0),
    ],
)
def test_samples_without_a_start_are_counted_and_said(attacks, status, lacking):
    """All images are of class 0, and so are all candidates for a start."""
    x, y = halves()
    found = robustcls.evaluate(Halves(), x[:2], y[:2], ThreatModel("l2", 13 if lacking == 0 else 0.1), attacks=attacks)
    checks = {check.id: check for check in found.checks}
    if status is None:
        assert "attack_starts" not in checks
        return
    assert checks["attack_starts"].status == status
    assert f"no start for {lacking} of" in checks["attack_starts"].message


def test_the_images_to_begin_from_are_of_all_classes_whatever_their_order():
    y = torch.tensor([0] * 150 + [1] * 20 + [2] * 5)
    x = torch.arange(175.0).view(-1, 1, 1, 1)
    index = torch.arange(175)
    chosen = others_of(x, y, index).flatten()
    assert len(chosen) == OTHERS
    assert {int(label): int(n) for label, n in zip(*y[chosen.long()].unique(return_counts=True), strict=True)} == {
        0: 75, 1: 20, 2: 5,
    }  # fmt: skip
    order = torch.randperm(175, generator=torch.Generator().manual_seed(0))
    assert set(others_of(x[order], y[order], index[order]).flatten().tolist()) == set(chosen.tolist())
    assert len(others_of(x[:3], y[:3], index[:3])) == 3
