"""Planted copies are found, exact and slightly changed; images that only look alike are not."""

import pytest
import torch
from torch.nn import functional as F

from robustcls.auditing.duplicates import COARSE, _described, _least, find_duplicates
from robustcls.data.duplicates import digest


def photos(n: int, seed: int = 0, side: int = 32) -> torch.Tensor:
    """Return images with coarse and fine structure, like photographs: uint8 N,3,side,side."""
    draws = torch.Generator().manual_seed(seed)
    layers = [
        F.interpolate(torch.randn(n, 3, size, size, generator=draws), size=side, mode="bicubic")
        for size in (4, 8, 16, 32)
    ]
    x = sum(layer * weight for layer, weight in zip(layers, (60, 30, 15, 8), strict=True)) + 128
    return x.clamp(0, 255).to(torch.uint8)


CHANGES = {
    "equal": lambda x: x,
    "darker": lambda x: (x.float() * 0.8 + 10).round().clamp(0, 255).to(torch.uint8),
    "noisy": lambda x: (
        (x.float() + 4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
    ),
    "resized": lambda x: (
        F.interpolate(F.interpolate(x.float(), size=24, mode="bilinear", antialias=True), size=32, mode="bilinear")
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_finds_twenty_planted_copies_and_nothing_else(change):
    x = photos(500)
    both = torch.cat([x, CHANGES[change](x[40:60])])
    groups = find_duplicates(both)
    assert [group.rows for group in groups] == [(40 + i, 500 + i) for i in range(20)]
    assert all(group.exact == (change == "equal") for group in groups)


@pytest.mark.parametrize("copied", [10, 50, 200])
@pytest.mark.parametrize("times", [1, 3])
def test_finds_copies_where_most_images_have_one(copied, times):
    """This is the case if, for example, the test split is the training split saved again."""
    x = photos(200)
    draws = torch.Generator().manual_seed(2)
    copies = [
        (x[:copied].float() + 4 * torch.randn(x[:copied].shape, generator=draws)).round().clamp(0, 255).to(torch.uint8)
        for _ in range(times)
    ]
    groups = find_duplicates(torch.cat([x, *copies]))
    assert [group.rows for group in groups] == [
        (row, *(200 + copied * time + row for time in range(times))) for row in range(copied)
    ]


def test_what_is_usual_does_not_change_where_nothing_is_a_copy(digits):
    """The threshold is compared with one from the median and the spread of the nearest similarities over all pairs."""
    _, fine = _described(digits.pixels[:500])
    flat = F.normalize(fine.float().flatten(1))
    z = (flat @ flat.T).fill_diagonal_(-1).amax(1).clamp(max=0.999).atanh()
    plain = (z.median() + 5 * 1.4826 * (z - z.median()).abs().median()).tanh().item()
    assert _least(fine) == pytest.approx(plain, abs=0.002)
    assert find_duplicates(digits.pixels[:500]) == []


def test_equal_ones_alone_where_that_is_asked():
    x = photos(100)
    both = torch.cat([x, CHANGES["darker"](x[:5]), x[5:10]])
    assert [group.rows for group in find_duplicates(both, near=False)] == [(5 + i, 105 + i) for i in range(5)]


def test_skies_are_no_copies():
    """Their thumbnails are similar, but their details differ."""
    draws = torch.Generator().manual_seed(0)
    ramp = torch.linspace(200, 120, 32).view(1, 1, 32, 1).expand(200, 3, 32, 32)
    x = (ramp + 3 * torch.randn(200, 3, 32, 32, generator=draws)).round().clamp(0, 255).to(torch.uint8)
    assert find_duplicates(x) == []


def test_digits_are_alike_without_being_copies(digits):
    twice = torch.cat([digits.pixels[:400], digits.pixels[3:5]])
    assert [group.rows for group in find_duplicates(twice)] == [(3, 400), (4, 401)]


def test_brightness_does_not_make_thumbnails_alike():
    """If the mean were not subtracted, thumbnails of bright images would all be similar, and all pairs would be compared in
    detail."""
    x = photos(60) // 4 + 190
    assert find_duplicates(torch.cat([x, x[:3]]))[0].rows == (0, 60)
    coarse, _ = _described(x)
    assert (coarse @ coarse.T).fill_diagonal_(0).max() < COARSE


def test_copies_of_copies_are_one_group():
    x = photos(60)
    both = torch.cat([x, x[:1], CHANGES["darker"](x[:1])])
    (group,) = find_duplicates(both)
    assert group.rows == (0, 60, 61)
    assert not group.exact


def test_uniform_images_are_equal_or_nothing():
    x = torch.full((4, 3, 32, 32), 7, dtype=torch.uint8)
    x[2], x[3] = 9, 200
    assert [group.rows for group in find_duplicates(x)] == [(0, 1)]


def test_the_digest_names_pixels_and_shape():
    x = photos(2)
    assert digest(x[0]) == digest(x[0].clone()) != digest(x[1])
    assert digest(x[0]) != digest(x[0].reshape(3, 16, 64))
    assert len(digest(x[0])) == 16
