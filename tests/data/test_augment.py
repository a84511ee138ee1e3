import pytest
import torch
from torch.nn import functional as F

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.data.augment import augmenter, noise_of
from robustcls.data.augmentations.affine import affine
from robustcls.data.augmentations.crop_flip import crop_flip
from robustcls.data.augmentations.cutout import cutout
from robustcls.data.augmentations.none import none
from tests.helpers.seeds import seeded

STILL = {"degrees": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0}


@pytest.fixture
def x():
    return torch.rand(16, 3, 12, 10, generator=seeded(9))


LABELS = torch.arange(16) % 5
LEAVES_BOX = ("gaussian",)  # intended; only allowed as the last link of a chain
REFUSED = [
    "crop_flip(pad=-1)",
    "affine(degrees=-1.0)",
    "affine(zoom=1.0)",
    "cutout(size=0)",
    "cutout(value=1.5)",
    "random_erasing(p=1.1)",
    "random_erasing(min_scale=0.5)",
    "random_erasing(max_scale=1.5)",
    "random_erasing(min_ratio=0)",
    "random_erasing(max_ratio=0.1)",
    "color_jitter(contrast=-0.1)",
    "color_jitter(hue=0.6)",
    "rand_augment(num_ops=-1)",
    "rand_augment(magnitude=31)",
    "idbh_weak(crop=-1)",
    "idbh_weak(p=2)",
    "mixup(alpha=0)",
    "cutmix(alpha=-1)",
    "gaussian(sigma=0)",
]


def images_of(spec, flip=True):
    """Return a chain as a function of images alone, (x, generator) -> x."""
    augment = augmenter(spec, flip=flip, num_classes=5)
    return lambda x, draws: augment(x, torch.arange(len(x)) % 5, draws)[0]


@pytest.mark.parametrize("name", plugins.names("augment"))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(16, 3, 12, 10), (16, 1, 8, 11), (1, 3, 9, 32)])
def test_every_augmentation(name, layout, shape):
    augment = augmenter(name, flip=True, num_classes=5)
    labels = LABELS[: shape[0]]
    x = torch.rand(shape, generator=seeded(9)).contiguous(memory_format=layout)
    before = x.clone()
    y, mixed = augment(x, labels, seeded())
    assert y.shape == x.shape
    assert y.dtype is x.dtype
    assert y.stride() == x.stride()
    assert name in LEAVES_BOX or (y.min() >= 0 and y.max() <= 1)
    assert torch.equal(x, before)
    if mixed.is_floating_point():
        assert mixed.shape == (len(x), 5)
        assert mixed.min() >= 0
        assert torch.allclose(mixed.sum(1), torch.ones(len(x)))
    else:
        assert mixed is labels
    assert all(torch.equal(*pair) for pair in zip((y, mixed), augment(x, labels, seeded()), strict=True))
    if name != "none" and len(x) > 1:
        assert not torch.equal(y, augment(x, labels, seeded(1))[0])


def test_one_generator_draws_anew_each_time(x):
    for name in set(plugins.names("augment")) - {"none"}:
        draws, augment = seeded(), images_of(name)
        assert not torch.equal(augment(x, draws), augment(x, draws)), name


@pytest.mark.parametrize("spec", REFUSED)
def test_bad_options_are_refused_in_one_line(x, spec):
    with pytest.raises(InputError) as refused:
        images_of(spec)(x, seeded())
    assert len(str(refused.value).splitlines()) == 1


def test_a_chain_is_its_links_in_order(x):
    draws = seeded()
    step_by_step = cutout(crop_flip(x, draws, pad=2), draws, size=4)
    assert torch.equal(images_of(" crop_flip(pad=2) + cutout(size=4)")(x, seeded()), step_by_step)
    bright, cut = "color_jitter(brightness=0, contrast=1, saturation=0, hue=0)", "cutout(size=6, value=1.0)"
    last, first = images_of(f"{bright}+{cut}"), images_of(f"{cut}+{bright}")
    holes = [(chain(x, seeded()) == 1).all(1).sum((1, 2)) for chain in (last, first)]
    assert (holes[0] >= 9).all()  # cut last: at least a quarter of the white square is left in every image
    assert (holes[1] < 9).any()  # cut first: lowering the contrast removes the white


def test_labels_are_mixed_from_the_first_link_that_mixes(x):
    augment = augmenter("crop_flip+mixup+cutmix+cutout", flip=True, num_classes=5)
    _, mixed = augment(x, LABELS, seeded())
    assert mixed.shape == (16, 5)
    assert torch.allclose(mixed.sum(1), torch.ones(16))
    assert ((mixed > 0).sum(1) > 2).any()  # images were mixed twice


@pytest.mark.parametrize(
    "spec",
    ["", "+", "crop_flip+", "+cutout", "crop_flip++cutout", "crop_flip(", "crop_flip)", "crop_flip(pad=2+cutout",
     "crop_flip)+(cutout", "crop_flip(pad=2))+cutout", "(pad=2)", "crop_flip cutout", "crop_flip,cutout", "cutuot"],
)  # fmt: skip
def test_what_is_no_chain_is_refused_in_one_line(spec):
    with pytest.raises(InputError, match="augment") as refused:
        augmenter(spec, flip=True, num_classes=5)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("spec", "fault"), [("crop_flip++cutout", "a link is empty"), ("crop_flip(+cutout", "parentheses do not match")]
)
def test_errors_in_a_chain_are_named(spec, fault):
    with pytest.raises(InputError, match=fault):
        augmenter(spec, flip=True, num_classes=5)


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
        for image, out in zip(x, crop_flip(x, seeded(seed), pad=2, flip=flip), strict=True):
            found = [place for place, window in windows(image, 2, flip) if torch.equal(window, out)]
            assert found
            seen.update(found)
    assert len(seen) == 25 * (2 if flip else 1)  # every position occurs


def test_crop_without_pad_or_flip_changes_nothing(x):
    assert torch.equal(crop_flip(x, seeded(), pad=0, flip=False), x)
    assert none(x, seeded()) is x


def test_affine_with_nothing_to_do_changes_nothing(x):
    assert torch.allclose(affine(x, seeded(), **STILL, flip=False), x, atol=1e-5)


def test_affine_flips_half(x):
    y = affine(x.repeat(20, 1, 1, 1), seeded(), **STILL)
    flipped = torch.isclose(y, x.repeat(20, 1, 1, 1).flip(3), atol=1e-5).flatten(1).all(1)
    same = torch.isclose(y, x.repeat(20, 1, 1, 1), atol=1e-5).flatten(1).all(1)
    assert (flipped ^ same).all()
    assert 0.4 < flipped.float().mean() < 0.6


def spots(n):
    """Return n black images, which are not square, with one bright pixel to the right of the centre."""
    x = torch.zeros(n, 1, 41, 61)
    x[:, :, 20, 42] = 1
    return x


def place(y):
    mass = y.sum((1, 2, 3))
    row = (y.sum((1, 3)) * (torch.arange(41) - 20)).sum(1) / mass
    column = (y.sum((1, 2)) * (torch.arange(61) - 30)).sum(1) / mass
    return row, column


def test_affine_rotates_without_stretching():
    row, column = place(affine(spots(300), seeded(), **STILL | {"degrees": 60.0}, flip=False))
    assert torch.allclose((row**2 + column**2).sqrt(), torch.tensor(12.0), atol=0.3)
    angle = torch.rad2deg(torch.atan2(row, column))
    assert angle.abs().max() < 61
    assert angle.max() > 50
    assert angle.min() < -50


def test_affine_shifts_and_zooms_as_far_as_told():
    row, column = place(affine(spots(300), seeded(), **STILL | {"shift": 0.1}, flip=False))
    assert 3.6 < row.abs().max() <= 4.15
    assert 5.5 < (column - 12).abs().max() <= 6.15
    row, column = place(affine(spots(300), seeded(), **STILL | {"zoom": 0.2}, flip=False))
    assert row.abs().max() < 0.1
    assert 12 / 1.2 - 0.2 < column.min() < 10.3
    assert 14.6 < column.max() < 12 / 0.8 + 0.2


@pytest.mark.parametrize(
    "spec",
    ["crop_flip", "crop_flip(flip=True)", "affine(degrees=5, zoom=0.1)", "idbh_weak(crop=0, p=0)+cutout(size=1)"],
)
def test_images_that_may_not_flip_never_do(spec):
    ramp = torch.linspace(0, 1, 16).expand(64, 1, 16, 16)  # brighter to the right, unless mirrored
    augment, free = images_of(spec, flip=False), images_of(spec)

    def falls(y):
        return y[:, :, 6:10, 4:8].mean((1, 2, 3)) > y[:, :, 6:10, 8:12].mean((1, 2, 3)) + 0.1

    assert not any(falls(augment(ramp, seeded(seed))).any() for seed in range(20))
    assert any(falls(free(ramp, seeded(seed))).any() for seed in range(20))


def test_flip_changes_no_other_draw(x):
    free, fixed = crop_flip(x, seeded()), crop_flip(x, seeded(), flip=False)
    same = torch.isclose(free, fixed).flatten(1).all(1)
    assert same.any()
    assert not same.all()


def test_gaussian_noise_is_not_clamped_and_comes_last(x):
    noise = images_of("gaussian(sigma=0.5)")(x, seeded()) - x
    assert noise.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(noise.mean().item()) < 0.02
    y = images_of("crop_flip+gaussian(sigma=0.5)")(x, seeded())
    assert y.min() < -0.5
    assert y.max() > 1.5
    with pytest.raises(InputError, match="put it last"):
        images_of("gaussian+crop_flip")
    assert noise_of("crop_flip+gaussian(sigma=0.5)") == 0.5
    assert noise_of("gaussian") == 0.25
    assert noise_of("crop_flip") is None
