"""Similarity and sparseness against scipy, scikit-image, slow loops and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor

from robustcls.attribution.measures.similarity import compare, cosine, displaced, gini, shuffled, spearman, ssim, top_k
from robustcls.core.errors import InputError


def _maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _related(*shape: int) -> tuple[Tensor, Tensor]:
    a = _maps(0, *shape)
    return a, 0.7 * a + 0.5 * _maps(1, *shape)


def test_spearman_is_scipys_with_ties_and_without() -> None:
    a, b = _related(5, 7, 9)
    for x, y in ((a, b), ((2 * a).round(), (2 * b).round()), (a.clamp_min(0), -b)):
        expected = [spearmanr(p.flatten(), q.flatten()).statistic for p, q in zip(x.numpy(), y.numpy(), strict=True)]
        values = spearman(x, y)
        assert values.dtype == torch.float64
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-10)


def test_spearman_sees_ranks_only() -> None:
    a = _maps(2, 3, 8, 8)
    torch.testing.assert_close(spearman(a, a.exp()), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(spearman(a, -(a**3)), -torch.ones(3, dtype=torch.float64))


def _top_k_by_hand(a: np.ndarray, b: np.ndarray, k: int, tolerance: int) -> float:
    def top(values: np.ndarray) -> list[tuple[int, int]]:
        places = [(i, j) for i in range(values.shape[0]) for j in range(values.shape[1])]
        return sorted(places, key=lambda place: (-abs(values[place]), place))[:k]

    def found(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> float:
        near = [any(max(abs(i - p), abs(j - q)) <= tolerance for p, q in those) for i, j in these]
        return sum(near) / k

    return (found(top(a), top(b)) + found(top(b), top(a))) / 2


@pytest.mark.parametrize("tolerance", [0, 1, 2, 100])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 1.0])
def test_top_k_by_hand(share: float, tolerance: int) -> None:
    a, b = _related(4, 8, 6)
    for x, y in ((a, b), ((2 * a).round(), (2 * b).round())):  # rounded values have many ties
        k = max(1, round(share * 48))
        expected = [_top_k_by_hand(p, q, k, tolerance) for p, q in zip(x.numpy(), y.numpy(), strict=True)]
        np.testing.assert_allclose(top_k(x, y, share, tolerance), expected, rtol=0, atol=1e-12)


def test_top_k_counts_magnitudes_and_takes_ties_in_reading_order() -> None:
    a = torch.ones(1, 4, 5)
    b = torch.zeros(1, 4, 5)
    b[0, 0, :2] = torch.tensor([-5.0, 3.0])
    assert top_k(a, b, share=0.1).item() == 1  # top 2 of 20 equal pixels of a: the first two
    assert top_k(a, b.flip(1), share=0.1).item() == 0
    assert top_k(a, b.flip(1), share=0.1, tolerance=2).item() == 0
    assert top_k(a, b.flip(1), share=0.1, tolerance=3).item() == 1


def test_a_tolerance_is_measured_from_both_sides() -> None:
    a, b = torch.zeros(1, 5, 5), torch.zeros(1, 5, 5)
    a[0, 0, :2] = 1  # both top pixels are near b's first one
    b[0, 0, 0] = b[0, 4, 4] = 1  # the second is far from both of a's
    assert top_k(a, b, share=0.08, tolerance=1).item() == pytest.approx((1 + 0.5) / 2)


def _ssim_by_hand(a: np.ndarray, b: np.ndarray, size: int) -> float:
    """Return SSIM by the formula of Wang et al., window by window."""
    side = min(a.shape)
    a, b = (gaussian_filter(m.astype(float) / np.abs(m).max(), side / 32) for m in (a, b))
    r = size // 2
    weights = np.array([[math.exp(-(i * i + j * j) / 4.5) for j in range(-r, r + 1)] for i in range(-r, r + 1)])
    weights /= weights.sum()
    values = []
    for i in range(a.shape[0] - size + 1):
        for j in range(a.shape[1] - size + 1):
            p, q = a[i : i + size, j : j + size], b[i : i + size, j : j + size]
            mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
            var_p, var_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
            cov = (weights * (p - mean_p) * (q - mean_q)).sum()
            top = (2 * mean_p * mean_q + 0.0004) * (2 * cov + 0.0036)
            values.append(top / ((mean_p**2 + mean_q**2 + 0.0004) * (var_p + var_q + 0.0036)))
    return float(np.mean(values))


@pytest.mark.parametrize(("height", "width", "size"), [(16, 20, 11), (11, 12, 11), (8, 9, 7), (10, 30, 9), (1, 6, 1)])
def test_ssim_by_hand(height: int, width: int, size: int) -> None:
    a, b = _related(2, height, width)
    expected = [_ssim_by_hand(p, q, size) for p, q in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(ssim(a, b), expected, rtol=0, atol=1e-9)


def test_ssim_is_scikit_images() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    for side in (32, 48):
        for x, y in zip(*_related(2, side, side + 4), strict=True):
            p, q = (gaussian_filter(m.double().numpy() / m.abs().max().item(), side / 32) for m in (x, y))
            expected = metrics.structural_similarity(
                p, q, gaussian_weights=True, use_sample_covariance=False, sigma=1.5, data_range=2
            )
            assert ssim(x[None], y[None]).item() == pytest.approx(expected, abs=1e-6)


def test_ssim_does_not_see_a_maps_scale() -> None:
    a, b = _related(2, 16, 16)
    torch.testing.assert_close(ssim(a, a * 1e-6), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(ssim(a, b), ssim(8 * a, b / 4), rtol=0, atol=1e-12)


def test_cosine_is_the_angle() -> None:
    a, b = _related(3, 4, 5)
    p, q = a.double().flatten(1).numpy(), b.double().flatten(1).numpy()
    expected = (p * q).sum(1) / np.sqrt((p * p).sum(1) * (q * q).sum(1))
    np.testing.assert_allclose(cosine(a, b), expected, rtol=0, atol=1e-12)
    tiny = torch.full((1, 2, 2), 1e-200, dtype=torch.float64)
    assert cosine(tiny, tiny).item() == pytest.approx(1)


def test_nan_where_it_is_not_defined_and_only_there() -> None:
    a, b = _related(4, 12, 12)
    a, b = a.clone(), b.clone()
    a[1] = 0
    b[2] = 3.7
    b[3, 0, 0] = torch.inf
    values = compare(a, b)
    assert list(values) == ["spearman", "top_k", "top_k_tolerant", "ssim", "cosine"]
    for name, value in values.items():
        constant_is_undefined = name == "spearman"
        assert value.isnan().tolist() == [False, True, constant_is_undefined, True], name
        assert value.dtype == torch.float64
        alone = compare(a[:1], b[:1])[name]
        torch.testing.assert_close(value[:1], alone, rtol=0, atol=1e-12)
    assert torch.equal(values["top_k_tolerant"][0], top_k(a, b, tolerance=1)[0])
    assert values["top_k_tolerant"][0] > values["top_k"][0]


def test_shuffled_keeps_the_values_and_loses_the_places() -> None:
    maps = torch.arange(64.0).view(1, 8, 8).repeat(5, 1, 1)
    state = torch.get_rng_state()
    control = shuffled(maps, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(control.flatten(1).sort(1).values, maps.flatten(1))
    assert len({tuple(row.tolist()) for row in control.flatten(1)}) == 5  # each map has a different order
    assert torch.equal(control, shuffled(maps, 3))
    assert not torch.equal(control, shuffled(maps, 4))
    many = torch.arange(64.0).view(1, 8, 8).repeat(500, 1, 1)
    correlation = spearman(many, shuffled(many, 0))
    assert correlation.mean().abs() < 0.03  # standard error 1 / sqrt(63 * 500) = 0.006
    assert correlation.std().item() == pytest.approx(1 / math.sqrt(63), rel=0.15)


def test_wrong_input_is_named() -> None:
    a = _maps(0, 2, 4, 4)
    with pytest.raises(InputError, match="as many maps of one size"):
        spearman(a, a[:1])
    for wrong in (a[None], a[:0], a.long()):
        with pytest.raises(InputError, match="give a non-empty float tensor N,H,W"):
            cosine(wrong, wrong)
    with pytest.raises(InputError, match="N,H,W"):
        gini(a[None])
    with pytest.raises(InputError, match="share=0 is not"):
        top_k(a, a, share=0)
    with pytest.raises(InputError, match="tolerance=-1"):
        top_k(a, a, tolerance=-1)


def test_a_displaced_map_has_its_texture_at_other_places() -> None:
    maps = torch.arange(2 * 5 * 4, dtype=torch.float32).view(2, 5, 4)
    moved = displaced(maps, 3)
    assert torch.equal(moved, displaced(maps, 3))
    for one, other in zip(maps, moved, strict=True):
        assert not torch.equal(one, other)
        assert torch.equal(one.flatten().sort().values, other.flatten().sort().values)
        steps = [(t - t.roll(1, axis)).abs().flatten().sort().values for t in (one, other) for axis in (0, 1)]
        assert torch.equal(steps[0], steps[2])  # neighbouring pixels stay neighbours
        assert torch.equal(steps[1], steps[3])
