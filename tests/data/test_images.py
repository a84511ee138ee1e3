import numpy as np
import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.data.images import Images, as_images


@pytest.fixture
def images() -> Images:
    pixels = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    return Images(pixels, torch.tensor([0, 1, 0, 1]), ("a", "b"), "tiny")


def test_take_keeps_positions(images):
    twice = images.take(torch.tensor([3, 1, 2])).take(torch.tensor([0, 2]))
    assert twice.index.tolist() == [3, 2]
    assert torch.equal(twice.pixels, images.pixels[[3, 2]])
    assert len(twice) == 2


def test_batch_scales(images):
    x, y = images.batch()
    assert x.dtype is torch.float32
    assert torch.equal(x, images.pixels.float() / 255)
    assert torch.equal(y, images.labels)


def test_sha256_sees_pixels_labels_and_order(images):
    assert images.sha256() == images.take(torch.arange(4)).sha256()
    assert (
        len({images.sha256(), images.take(torch.tensor([1, 0, 2, 3])).sha256(), images.take(torch.arange(3)).sha256()})
        == 3
    )


@pytest.mark.parametrize("array", [True, False])
@pytest.mark.parametrize("floats", [True, False])
def test_as_images_takes_pairs(images, array, floats):
    x, y = (images.batch()[0] if floats else images.pixels), images.labels
    made = as_images((x.numpy(), y.numpy()) if array else (x, y), "mine")
    assert torch.equal(made.pixels, images.pixels)
    assert made.classes == ("0", "1")
    assert made.note == ""


def test_as_images_takes_classes_and_tells_rounding(images):
    made = as_images((images.batch()[0] * 0.999, images.labels.int(), ["a", "b", "c"]), "mine")
    assert made.classes == ("a", "b", "c")
    assert "rounded" in made.note


X, Y = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (X, "gave Tensor"),
        (None, "gave NoneType"),
        ((X + 2, Y), r"lie in \[2, 2\]"),
        ((X * float("nan"), Y), "lie in"),
        ((X.permute(0, 2, 3, 1), Y), "looks like N,H,W,C"),
        ((X[0], Y), "have shape"),
        ((X[:0], Y[:0]), "non-empty"),
        ((X.long(), Y), "are torch.int64"),
        ((X, Y[:3]), "one whole number per image"),
        ((X, Y.float()), "one whole number per image"),
        ((X, Y - 1), "count from 0"),
        ((X, Y, ["a"]), "labels run from 0 to 1 with 1 classes"),
        ((X, Y * 0), "1 class"),
        ((X, np.array(["cat", "dog", "cat", "dog"])), "labels are ndarray"),
        (Images(X, Y, ("a", "b"), "mine"), "are torch.float32"),
    ],
)
def test_as_images_names_what_is_wrong(made, message):
    with pytest.raises(InputError, match=message) as error:
        as_images(made, "mine:make")
    assert "\n" not in str(error.value)
    assert "mine:make" in str(error.value)
