"""The nearest point on a hyperplane inside the box, against brute force and AutoAttack's own projections."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from robustcls.attacks._hyperplane import to_hyperplane

ORDERS = {"linf": float("inf"), "l2": 2, "l1": 1}
every_norm = pytest.mark.parametrize("norm", ORDERS)


def problem(n: int = 40, pixels: int = 48, share: float = 0.3, sparse: bool = False):
    """Return points, some of them at the edge of the box, and hyperplanes on both sides of them, at a share of the distance
    that the box allows."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(n, pixels, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    w = torch.randn(n, pixels, generator=generator)
    if sparse:
        w *= torch.rand(n, pixels, generator=generator) < 0.2
    sign = torch.arange(n) % 2 * 2.0 - 1
    most = torch.where(w * sign[:, None] > 0, w * (1 - x), -w * x).sum(1)
    return x, w, (w * x).sum(1) + share * most


@every_norm
@pytest.mark.parametrize("share", [0.01, 0.3, 0.95])
@pytest.mark.parametrize("sparse", [False, True])
def test_it_lands_on_the_hyperplane_inside_the_box(norm, share, sparse):
    x, w, b = problem(share=share, sparse=sparse)
    delta = to_hyperplane(norm, x, w, b)
    torch.testing.assert_close((w * (x + delta)).sum(1), b, rtol=0, atol=2e-5)
    assert (x + delta).min() >= -1e-6
    assert (x + delta).max() <= 1 + 1e-6
    assert (delta[w == 0] == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_the_norm_is_the_optimum_of_a_linear_program(norm):
    x, w, b = (tensor.double().numpy() for tensor in problem(n=12, pixels=12))
    found = to_hyperplane(norm, *(torch.tensor(part, dtype=torch.float32) for part in (x, w, b)))
    sizes = torch.linalg.vector_norm(found, ORDERS[norm], dim=1)
    for i, size in enumerate(sizes.tolist()):  # delta = up - down; for linf one more variable bounds every pixel
        pixels = len(x[i])
        bounds = [(0, 1 - v) for v in x[i]] + [(0, v) for v in x[i]]
        equal = np.concatenate([w[i], -w[i]])[None]
        cost, caps = np.ones(2 * pixels), None
        if norm == "linf":
            cost, bounds = np.eye(2 * pixels + 1)[-1], [*bounds, (0, None)]
            equal = np.append(equal, [[0]], axis=1)
            caps = np.concatenate([np.eye(2 * pixels), -np.ones((2 * pixels, 1))], axis=1)
        best = linprog(cost, caps, None if caps is None else np.zeros(2 * pixels), equal, [b[i] - w[i] @ x[i]], bounds)
        assert size == pytest.approx(best.fun, abs=1e-5)


def test_no_other_point_is_nearer_in_l2():
    """The optimum is a multiple of w at pixels inside the box; only pixels that would move further stop at its edge."""
    x, w, b = problem(share=0.5)
    delta = to_hyperplane("l2", x, w, b).double()
    free = ((x + delta) > 1e-5) & ((x + delta) < 1 - 1e-5)
    for d, v, inside in zip(delta, w.double(), free, strict=True):
        time = (d[inside] @ v[inside]) / (v[inside] @ v[inside])
        torch.testing.assert_close(d[inside], time * v[inside], rtol=0, atol=1e-5)
        assert (d[~inside].abs() <= (time * v[~inside]).abs() + 1e-5).all()


@every_norm
def test_out_of_reach_it_goes_as_far_as_the_box_allows(norm):
    x, w, b = problem(share=1.5)
    delta = to_hyperplane(norm, x, w, b)
    up = w * (b - (w * x).sum(1)).sign()[:, None]
    torch.testing.assert_close(x + delta, (up > 0).float(), rtol=0, atol=1e-6)


@every_norm
def test_without_a_slope_or_on_the_hyperplane_it_stays(norm):
    x, w, _ = problem(n=4)
    assert (to_hyperplane(norm, x, torch.zeros_like(w), torch.ones(4)) == 0).all()
    assert to_hyperplane(norm, x, w, torch.linalg.vecdot(w, x)).abs().max() < 1e-6


@every_norm
@pytest.mark.parametrize("share", [0.01, 0.3, 0.95, 1.5])
@pytest.mark.parametrize("pixels", [20, 3072])
def test_it_is_autoattacks_projection(norm, share, pixels):
    theirs = pytest.importorskip("pyautoattack.fab_projections", reason="AutoAttack's own code is not installed")
    x, w, b = problem(20, pixels, share)
    peer = getattr(theirs, f"projection_{norm}")(x.double(), w.double(), b.double())
    ours = to_hyperplane(norm, x, w, b)
    exact = to_hyperplane(norm, x.double(), w.double(), b.double())
    torch.testing.assert_close(exact, peer, rtol=0, atol=1e-5)
    sizes = [torch.linalg.vector_norm(delta.double(), ORDERS[norm], dim=1) for delta in (ours, peer)]
    torch.testing.assert_close(*sizes, rtol=1e-5, atol=1e-7)  # in l1, rounding decides how far the last pixel moves


@every_norm
def test_without_a_slope_nothing_moves(norm):
    """This holds at any distance of the hyperplane."""
    x = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    delta = to_hyperplane(norm, x, torch.zeros_like(x), torch.tensor([0.1, 1e3, 1e30]))
    assert (delta == 0).all()


def test_in_l0_no_choice_of_fewer_values_reaches_the_hyperplane():
    """All sets of values are tried, with each value moved to the edge of the box."""
    draw = torch.Generator().manual_seed(4)
    x, w = torch.rand(30, 6, generator=draw), torch.randn(30, 6, generator=draw)
    b = (w * x).sum(1) + torch.randn(30, generator=draw)
    delta = to_hyperplane("l0", x, w, b)
    lack = b - (w * x).sum(1)
    gain = torch.where(w * lack[:, None] > 0, 1 - x, x) * w.abs()
    for i in range(30):
        counts = [
            k for k in range(7) for some in combinations(range(6), k) if gain[i, list(some)].sum() >= lack[i].abs()
        ]
        reached = (w[i] * (x[i] + delta[i])).sum()
        if counts:
            assert (delta[i] != 0).sum() == min(counts)
            torch.testing.assert_close(reached, b[i], rtol=0, atol=1e-5)
        else:
            torch.testing.assert_close((reached - (w[i] * x[i]).sum()).abs(), gain[i].sum(), rtol=1e-5, atol=1e-6)
    assert (x + delta).min() >= -1e-6
    assert (x + delta).max() <= 1 + 1e-6
