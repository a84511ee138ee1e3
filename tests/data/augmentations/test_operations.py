"""Colour and shape operations, against torchvision one image at a time."""

import pytest
import torch
from torchvision.transforms import InterpolationMode, RandAugment, autoaugment
from torchvision.transforms import functional as oracle

from robustcls.data.augmentations import _functional as F
from robustcls.data.augmentations import rand_augment as module
from robustcls.data.augmentations.color_jitter import color_jitter
from robustcls.data.augmentations.idbh_weak import color_shape, crop_shift, idbh_weak
from robustcls.data.augmentations.rand_augment import operations, rand_augment
from tests.helpers.seeds import seeded


def byte_images(n=6, c=3, h=20, w=24, low=0, high=256):
    return torch.randint(low, high, (n, c, h, w), generator=seeded(3), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness", "hue"])
def test_adjustments_equal_torchvisions(name, channels):
    x = byte_images(c=channels) / 255
    x[0] = 0.5
    x[1, :, :5] = x[1, :1, :5]  # grey pixels, which have no hue
    factors = torch.tensor([-0.5, -0.3, 0.0, 0.1, 0.4, 0.5]) + (0.5 if name != "hue" else 0) * 2
    adjust, truth = getattr(F, f"adjust_{name}"), getattr(oracle, f"adjust_{name}")
    expected = torch.stack([truth(image, factor.item()) for image, factor in zip(x, factors, strict=True)])
    assert torch.allclose(adjust(x, factors), expected, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_has_no_factor_equals_torchvision(channels):
    x = byte_images(c=channels, h=40, w=48, low=40, high=160)
    x[0] = 77
    x[1, 0, 3:] = 90  # nearly all pixels have the same grey level
    assert torch.equal((F.equalize(x / 255) * 255).round().byte(), oracle.equalize(x))
    assert torch.allclose(F.autocontrast(x / 255), oracle.autocontrast(x / 255), atol=1e-6)
    assert torch.equal((F.posterize(x / 255, 3) * 255).round().byte(), oracle.posterize(x, 3))
    assert torch.equal((F.solarize(x / 255, 100 / 255) * 255).round().byte(), oracle.solarize(x, 100))


@pytest.mark.parametrize("magnitude", [0, 9, 11, 30])
def test_rand_augments_operations_equal_torchvisions(magnitude):
    x = byte_images()
    space = RandAugment(magnitude=magnitude)._augmentation_space(31, x.shape[2:])
    ours = operations(magnitude, *x.shape[2:])
    assert [name.replace("_", "") for name in ours] == [name.lower() for name in space]
    for sign in (1, -1):
        for (name, operation), (title, (magnitudes, signed)) in zip(ours.items(), space.items(), strict=True):
            strength = magnitudes[magnitude].item() if magnitudes.ndim else 0.0
            expected = autoaugment._apply_op(
                x, title, strength * (sign if signed else 1), InterpolationMode.NEAREST, None
            )
            actual = operation(x / 255, torch.full((6,), float(sign))) * 255
            rounded = title in ("Brightness", "Color", "Contrast", "Sharpness", "AutoContrast")
            off = (actual - expected).abs() > (2 if rounded else 0.01)  # torchvision rounds down, also in between
            assert off.float().mean() < 0.01, name  # a point between two pixels may go to either


def test_rand_augment_gives_each_operation_its_share(monkeypatch):
    def tell(index):
        return lambda x, sign: x + 20**index * (1 + (sign > 0).float().view(-1, 1, 1, 1))

    monkeypatch.setattr(module, "operations", lambda magnitude, h, w: {str(i): tell(i) for i in range(3)})
    counts, pairs = torch.zeros(4, 3, 2), torch.zeros(3, 3)
    for seed in range(400):
        told = rand_augment(torch.zeros(4, 1, 1, 1), seeded(seed), num_ops=1).view(4)
        index = (told >= 20).long() + (told >= 400)
        counts[torch.arange(4), index, (told / 20.0**index).long() - 1] += 1
        pairs[index[0], index[1]] += 1
        assert index.bincount(minlength=3).max() <= 2  # four images share three operations
    assert (counts - 400 / 6).abs().max() < 4.5 * (400 * 5 / 36) ** 0.5  # evenly for each image and sign
    assert (pairs > 0).all()


def test_rand_augment_of_no_operation_or_magnitude_keeps_the_geometry():
    x = byte_images() / 255
    assert torch.equal(rand_augment(x, seeded(), num_ops=0), x)
    for name in ("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "posterize"):
        assert torch.allclose(operations(0, 20, 24)[name](x, torch.ones(6)), x, atol=1e-7)


def test_color_jitter_draws_each_factor_from_its_range():
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    x = torch.full((2000, 3, 1, 1), 0.25)
    factor = color_jitter(x, seeded(), **off | {"brightness": 0.6})[:, 0, 0, 0] / 0.25
    assert 0.4 <= factor.min() < 0.41
    assert 1.59 < factor.max() <= 1.6
    assert abs(factor.mean() - 1) < 0.04
    factor = color_jitter(x, seeded(), **off | {"brightness": 1.5})[:, 0, 0, 0] / 0.25
    assert 0 <= factor.min() < 0.01  # not below black
    assert 2.49 < factor.max() <= 2.5
    assert abs(factor.mean() - 1.25) < 0.08
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(2000, 3, 1, 1)
    turned = color_jitter(red, seeded(), **off | {"hue": 0.1})
    assert torch.equal(turned[:, 0], torch.ones(2000, 1, 1))
    assert abs(turned[:, 1].max() - 0.6) < 0.01  # a tenth of the circle, in units of a sixth
    assert abs(turned[:, 2].max() - 0.6) < 0.01
    assert torch.equal(color_jitter(x, seeded(), **off), x)


def test_color_jitter_is_its_adjustments_in_order():
    x = byte_images() / 255
    u = torch.rand(4, 6, generator=seeded())
    y = F.adjust_contrast(F.adjust_brightness(x, 0.8 + 0.4 * u[0]), 0.7 + 0.6 * u[1])
    y = F.adjust_hue(F.adjust_saturation(y, 0.6 + 0.8 * u[2]), 0.2 * u[3] - 0.1)
    jittered = color_jitter(x, seeded(), brightness=0.2, contrast=0.3, saturation=0.4, hue=0.1)
    assert torch.allclose(jittered, y, atol=1e-6)


def test_crop_shift_moves_a_window_and_loses_no_more_than_told():
    x = (1 + torch.arange(12 * 10.0)).view(1, 1, 12, 10).expand(1000, 1, 12, 10) / 200
    lost, moves = [], set()
    for image in crop_shift(x, seeded(), 2)[:, 0]:
        kept = image > 0
        rows, columns = kept.any(1), kept.any(0)
        assert torch.equal(kept, rows[:, None] & columns)  # a rectangle
        source, place = (image[kept] * 200).round().long() - 1, kept.nonzero()
        moved = (torch.stack((source // 10, source % 10), dim=1) - place).unique(dim=0)
        assert len(moved) == 1  # all pixels move by the same offset
        moves.add(tuple(moved[0].tolist()))
        lost.append(12 - rows.sum() + 10 - columns.sum())
    assert torch.stack(lost).bincount().tolist() == pytest.approx([333] * 3, abs=60)
    assert moves == {(down, right) for down in range(-2, 3) for right in range(-2, 3) if abs(down) + abs(right) <= 2}


def test_color_shape_gives_each_operation_an_eighth():
    x = byte_images(16, low=30, high=200) / 255
    seen = torch.zeros(16)
    for seed in range(60):
        y = color_shape(x, seeded(seed))
        moved = torch.isclose(y, F.equalize(x), atol=1e-6).flatten(1).all(1)
        assert moved.sum() == 2
        assert torch.isclose(y, F.autocontrast(x), atol=1e-6).flatten(1).all(1).sum() == 2
        seen += moved
    assert (seen > 0).all()


def test_color_shape_draws_from_the_papers_ranges(monkeypatch):
    drawn = []
    for name in ("adjust_saturation", "adjust_brightness", "adjust_contrast", "adjust_sharpness", "affine"):
        monkeypatch.setattr(F, name, lambda x, *strength: drawn.append(strength) or x)
    color_shape(torch.rand(8000, 1, 1, 1), seeded())
    for (factor,), low in zip(drawn[:4], (0.1, 0.5, 0.5, 0.1), strict=True):
        assert (factor.min().item(), factor.max().item()) == pytest.approx((low, 1.9), abs=0.01)
    ((_, along_x, _), (along_y, _, _)), ((cos, _, _), (sin, _, _)) = drawn[4:]
    assert ((along_x == 0) ^ (along_y == 0)).all()
    assert 0.45 < (along_x == 0).float().mean() < 0.55
    slant = (along_x + along_y).atan()
    assert (slant.abs().min().item(), slant.abs().max().item()) == pytest.approx((0.05, 0.15), abs=0.001)
    degrees = torch.rad2deg(torch.atan2(sin, cos)).round().int()
    assert sorted(set(degrees.tolist())) == [*range(-10, 0), *range(1, 11)]
    assert (slant > 0).any()
    assert (slant < 0).any()


def test_idbh_weak_erases_with_its_probability():
    x = torch.ones(400, 1, 32, 32)

    def dark(p, crop):
        return (idbh_weak(x, seeded(), p=p, crop=crop) == 0).flatten(1).float().mean(1)

    assert (dark(1.0, 0) > 0.01).all()
    assert 0.15 < dark(1.0, 0).mean() < 0.2 + 0.05  # 0.175 erased on average; a quarter of images is sheared or rotated
    assert (dark(0.0, 0) == 0).float().mean() > 0.74
    assert dark(0.0, 10).max() < 0.5
