import pytest
import torch
from torch.nn import functional as F

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.data.augment import affine, augmenter, crop_flip, none

STILL = {"degrees": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return torch.rand(16, 3, 12, 10, generator=generator(9))


@pytest.mark.parametrize("name", plugins.names("augment"))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_augmentation(x, name, layout):
    augment = augmenter(name, flip=True)
    x = x.contiguous(memory_format=layout)
    before = x.clone()
    y = augment(x, generator())
    assert y.shape == x.shape
    assert y.dtype is x.dtype
    assert y.is_contiguous(memory_format=layout)
    assert y.min() >= 0
    assert y.max() <= 1
    assert torch.equal(x, before)
    assert torch.equal(y, augment(x, generator()))
    if name != "none":
        assert not torch.equal(y, augment(x, generator(1)))


def windows(image, pad, mirrored):
    _, h, w = image.shape
    padded = F.pad(image, (pad,) * 4)
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = padded[:, top : top + h, left : left + w]
            yield (top, left, False), window
            if mirrored:
                yield (top, left, True), window.flip(2)


@pytest.mark.parametrize("flip", [True, False])
def test_crop_flip_gives_windows_of_the_padded_image(x, flip):
    seen = set()
    for seed in range(60):
        for image, out in zip(x, crop_flip(x, generator(seed), pad=2, flip=flip), strict=True):
            found = [place for place, window in windows(image, 2, flip) if torch.equal(window, out)]
            assert found
            seen.update(found)
    assert len(seen) == 25 * (2 if flip else 1)  # every place comes up


def test_crop_without_pad_or_flip_changes_nothing(x):
    assert torch.equal(crop_flip(x, generator(), pad=0, flip=False), x)
    assert none(x, generator()) is x


def test_affine_with_nothing_to_do_changes_nothing(x):
    assert torch.allclose(affine(x, generator(), **STILL, flip=False), x, atol=1e-5)


def test_affine_flips_half(x):
    y = affine(x.repeat(20, 1, 1, 1), generator(), **STILL)
    flipped = torch.isclose(y, x.repeat(20, 1, 1, 1).flip(3), atol=1e-5).flatten(1).all(1)
    same = torch.isclose(y, x.repeat(20, 1, 1, 1), atol=1e-5).flatten(1).all(1)
    assert (flipped ^ same).all()
    assert 0.4 < flipped.float().mean() < 0.6


def spots(n):
    """Black images, not square, with one bright pixel right of the centre; and where their mass lies, from the centre."""
    x = torch.zeros(n, 1, 41, 61)
    x[:, :, 20, 42] = 1
    return x


def place(y):
    mass = y.sum((1, 2, 3))
    row = (y.sum((1, 3)) * (torch.arange(41) - 20)).sum(1) / mass
    column = (y.sum((1, 2)) * (torch.arange(61) - 30)).sum(1) / mass
    return row, column


def test_affine_rotates_without_stretching():
    row, column = place(affine(spots(300), generator(), **STILL | {"degrees": 60.0}, flip=False))
    assert torch.allclose((row**2 + column**2).sqrt(), torch.tensor(12.0), atol=0.3)
    angle = torch.rad2deg(torch.atan2(row, column))
    assert angle.abs().max() < 61
    assert angle.max() > 50
    assert angle.min() < -50


def test_affine_shifts_and_zooms_as_far_as_told():
    row, column = place(affine(spots(300), generator(), **STILL | {"shift": 0.1}, flip=False))
    assert 3.6 < row.abs().max() <= 4.15
    assert 5.5 < (column - 12).abs().max() <= 6.15
    row, column = place(affine(spots(300), generator(), **STILL | {"zoom": 0.2}, flip=False))
    assert row.abs().max() < 0.1
    assert 12 / 1.2 - 0.2 < column.min() < 10.3
    assert 14.6 < column.max() < 12 / 0.8 + 0.2


@pytest.mark.parametrize("spec", ["crop_flip", "crop_flip(flip=True)", "affine(degrees=5, zoom=0.1)"])
def test_images_that_may_not_flip_never_do(spec):
    ramp = torch.linspace(0, 1, 16).expand(64, 1, 16, 16)  # bright on the right: falls only where it is mirrored
    augment, free = augmenter(spec, flip=False), augmenter(spec, flip=True)

    def falls(y):
        return y[:, :, 4:12, 4:8].mean((1, 2, 3)) > y[:, :, 4:12, 8:12].mean((1, 2, 3))

    assert not any(falls(augment(ramp, generator(seed))).any() for seed in range(30))
    assert any(falls(free(ramp, generator(seed))).any() for seed in range(30))


def test_flip_changes_no_other_draw(x):
    free, fixed = crop_flip(x, generator()), crop_flip(x, generator(), flip=False)
    same = torch.isclose(free, fixed).flatten(1).all(1)
    assert same.any()
    assert not same.all()


@pytest.mark.parametrize("options", [{"degrees": -1.0}, {"zoom": 1.0}])
def test_affine_refuses(x, options):
    with pytest.raises(InputError, match="must"):
        affine(x, generator(), **options)


def test_crop_refuses(x):
    with pytest.raises(InputError, match="pad=-1"):
        crop_flip(x, generator(), pad=-1)
