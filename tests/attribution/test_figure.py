"""The picture of a sample: a PNG of reasonable size for any image, with colours that match the values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustcls.attribution._figure import Row, _amplification, _limits, draw
from robustcls.core.errors import InputError


def _sample(channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    x = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))
    return x, (x + 8 / 255 * (x - 0.5).sign()).clamp(0, 1)


@pytest.mark.parametrize(("size", "methods"), [((3, 32, 32), 3), ((1, 28, 28), 1), ((3, 40, 20), 2), ((4, 20, 60), 1)])
def test_a_picture_is_a_png_that_grows_with_the_methods(
    size: tuple[int, int, int], methods: int, tmp_path: Path
) -> None:
    x, x_adv = _sample(*size)
    signed, flat = torch.randn(3, *size[1:]), torch.rand(3, *size[1:]).numpy()
    rows = [
        Row("integrated_gradients", signed, signed + 1, signed * 2, "baseline black, 50 steps"),
        Row("gradcam", flat[0], flat[1], None, "grid 4x4 of layer net.features.21"),
        Row("zero", *3 * [torch.zeros(size[1:])], signed=True),
    ]
    path = tmp_path / "new" / "sample.png"
    draw(
        path,
        image=x,
        adversarial=x_adv,
        maps=rows[:methods],
        label="a class with a very long name that nobody could print in full",
        adversarial_label="$5_{$",
        clean_top=[("a class with a very long name that nobody could print in full", 0.9), ("$5_{$", 0.1)],
        adversarial_top=[("$5_{$", 1.0), ("b", 0.0), ("c", 0.0), ("d", 0.0)],
        title="sample 7",
    )
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width == 1660
        assert 600 + 300 * methods < picture.height < 1200 + 900 * methods
    assert path.stat().st_size < 2_000_000
    assert [file.name for file in path.parent.iterdir()] == ["sample.png"]


def test_pixels_are_drawn_as_they_are_and_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    x = torch.zeros(3, 32, 32)
    x[0, :, :16] = 1
    arguments = {"image": x, "adversarial": x, "maps": [], "label": "a", "adversarial_label": "a"}
    draw(tmp_path / "a.png", **arguments)
    draw(tmp_path / "b.png", **arguments)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    # The picture shows two images of 448 x 448, each half red. The perturbation is zero and is therefore drawn grey.
    assert (pixels == [255, 0, 0]).all(1).sum() == 448 * 448
    assert 448 * 448 <= (np.abs(pixels.astype(int) - 128) <= 1).all(1).sum() < 448 * 448 + 500


def test_the_amplification_fills_the_range_and_never_clips() -> None:
    assert _amplification(8 / 255) == 15
    assert _amplification(0.0) == 1
    for largest in (1e-6, 0.003, 0.031, 0.3, 0.7, 1.0):
        assert 0.45 < largest * _amplification(largest) <= 0.5 + 1e-9


def test_the_scale_ends_at_the_largest_value_unless_a_few_stand_far_out() -> None:
    values = np.linspace(-1, 1, 1001)
    assert _limits(values) == (1.0, 1.0)
    limit, largest = _limits(np.append(values, -50.0))
    assert 0.9 < limit <= 1
    assert largest == 50
    assert _limits(np.zeros(9)) == (1.0, 0.0)
    assert _limits(np.array([np.nan, 2.0])) == (2.0, 2.0)


def test_two_images_of_different_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of the same size"):
        draw(
            tmp_path / "a.png",
            image=torch.rand(3, 8, 8),
            adversarial=torch.rand(3, 8, 9),
            maps=[],
            label="a",
            adversarial_label="b",
        )
