"""Augmentations that cut out, erase, paste or mix regions."""

import pytest
import torch
from torchvision.transforms import RandomErasing

from robustcls.core.errors import InputError
from robustcls.data.augmentations.cutmix import cutmix
from robustcls.data.augmentations.cutout import cutout
from robustcls.data.augmentations.mixup import beta, mixup
from robustcls.data.augmentations.random_erasing import random_erasing
from tests.helpers.seeds import seeded


def extent(mask):
    """Return first row, first column, height and width of the rectangle in each mask, N,H,W."""
    rows, columns = mask.any(2).int(), mask.any(1).int()
    assert torch.equal(mask, (rows[:, :, None] & columns[:, None, :]).bool())
    return rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)


def test_cutout_centres_lie_anywhere_and_squares_end_at_the_border():
    x = torch.full((3000, 3, 10, 14), 0.7)
    y = cutout(x, seeded(), size=4, value=0.5)
    mask = y[:, 0] != 0.7
    assert torch.equal(y, torch.where(mask[:, None], 0.5, x))
    top, left, tall, wide = extent(mask)
    centre_row = torch.where(top == 0, tall - 2, top + 2)
    centre_column = torch.where(left == 0, wide - 2, left + 2)
    counts = (centre_row * 14 + centre_column).bincount(minlength=140).float()
    assert len(counts) == 140
    assert counts.min() > 0
    assert ((counts - 3000 / 140) ** 2 / (3000 / 140)).sum() < 139 + 4 * (2 * 139) ** 0.5  # chi-squared: even
    inner = (centre_row >= 2) & (centre_row <= 8) & (centre_column >= 2) & (centre_column <= 12)
    assert (tall[inner] == 4).all()
    assert (wide[inner] == 4).all()
    assert (tall.min(), wide.min()) == (2, 2)


def test_random_erasing_has_torchvisions_distribution():
    x = torch.ones(2000, 1, 24, 16)
    theirs = RandomErasing(p=0.7, scale=(0.1, 0.6), ratio=(0.4, 2.0))
    torch.manual_seed(0)
    expected = torch.stack([theirs(image) for image in x])
    actual = random_erasing(x, seeded(), p=0.7, min_scale=0.1, max_scale=0.6, min_ratio=0.4, max_ratio=2.0)
    moments = []
    for y in (expected, actual):
        mask = y[:, 0] == 0
        kept = mask.flatten(1).any(1)
        top, left, tall, wide = (each[kept].float() for each in extent(mask))
        place_row, place_column = top / (24 - tall), left / (16 - wide)
        ratio = (tall / wide).log()
        each = (tall * wide / 384, ratio, place_row, place_column, tall, wide)
        moments.append((kept.float().mean(), torch.stack([m for v in each for m in (v.mean(), v.std())])))
        assert tall.max() < 24
        assert wide.max() < 16
    assert abs(moments[0][0] - moments[1][0]) < 0.05
    assert torch.allclose(moments[0][1], moments[1][1], rtol=0.08, atol=0.03)


def test_random_erasing_of_all_none_or_what_never_fits():
    x = torch.ones(200, 1, 12, 12)
    assert (random_erasing(x, seeded(), p=1.0, value=0.3) == 0.3).flatten(1).any(1).all()
    assert torch.equal(random_erasing(x, seeded(), p=0.0), x)
    assert torch.equal(random_erasing(x, seeded(), p=1.0, min_scale=1.0, max_scale=1.0), x)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 4.0])
def test_beta_has_the_mean_and_variance_of_its_formula(alpha):
    draws = beta(alpha, 40_000, seeded(), torch.device("cpu"))
    variance = 1 / (4 * (2 * alpha + 1))
    assert draws.isfinite().all()
    assert draws.min() >= 0
    assert draws.max() <= 1
    assert abs(draws.mean() - 0.5) < 5 * (variance / 40_000) ** 0.5
    assert draws.var().item() == pytest.approx(variance, rel=0.03)
    reference = torch.distributions.Beta(alpha, alpha).sample((40_000,))
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    if alpha >= 0.3:
        assert torch.allclose(draws.quantile(quantiles), reference.quantile(quantiles), atol=0.02)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_beta_refuses(alpha):
    with pytest.raises(InputError, match="alpha"):
        beta(alpha, 3, seeded(), torch.device("cpu"))


def one_each(n):
    """Return n images, each of a different grey, and labels with a different class for each."""
    return torch.arange(n).view(n, 1, 1, 1).expand(n, 3, 9, 13) / n, torch.eye(n)


def partners(mixed):
    """Return, for labels mixed from the identity, the other image in each mixture and the share of the image itself."""
    own = mixed.diagonal()
    other = (mixed - torch.diag(own)).argmax(1)
    return torch.where(own < 1, other, torch.arange(len(mixed))), own


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_mixup_mixes_images_and_labels_by_one_lambda(alpha):
    x, y = one_each(64)
    images, mixed = mixup(x, y, seeded(), alpha=alpha)
    assert torch.allclose(mixed.sum(1), torch.ones(64))
    assert ((mixed > 0).sum(1) <= 2).all()
    assert len(set(mixed.diagonal().tolist())) > 50  # every sample has a lambda of its own
    assert torch.allclose(images, torch.einsum("nk,kchw->nchw", mixed, x), atol=1e-6)
    other, _ = partners(mixed)
    assert sorted(other.tolist()) == list(range(64))  # a permutation


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_cutmix_labels_are_the_share_of_pixels_pasted(alpha):
    x, y = one_each(64)
    images, mixed = cutmix(x, y, seeded(), alpha=alpha)
    other, own = partners(mixed)
    pasted = images[:, 0] != x[:, 0]
    assert torch.equal(images[:, 0], torch.where(pasted, x[other, 0], x[:, 0]))
    assert torch.allclose(pasted.float().mean((1, 2)), 1 - own, atol=1e-6)
    assert torch.allclose(mixed.sum(1), torch.ones(64))
    extent(pasted)
    assert len(set(own.tolist())) > 20


def test_cutmix_patches_have_the_papers_size():
    x, y = one_each(2000)
    pasted = cutmix(x, y, seeded(), alpha=1.0)[0][:, 0] != x[:, 0]
    top, left, tall, wide = extent(pasted)
    whole = (top > 0) & (left > 0) & (top + tall < 9) & (left + wide < 13)  # not cut off by the border
    assert (tall[whole] % 2 == 0).all()
    assert ((tall[whole] / 9 - wide[whole] / 13).abs() <= 2 / 9).all()  # the aspect of the image, except for rounding
    # Expected height of a patch, which the border may cut off: E[min(c, s) + min(H - c, s)] with s = floor(side * 9 / 2), by
    # the formula of the paper.
    side = (torch.arange(20_000) / 20_000).sqrt()
    half, centre = (side * 9 / 2).floor()[:, None], torch.arange(9)
    expected = ((centre + half).clamp(max=9) - (centre - half).clamp(min=0)).mean()
    assert tall.float().mean().item() == pytest.approx(expected.item(), rel=0.06)
