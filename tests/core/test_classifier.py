import pytest
import torch
from torch import nn

from robustcls.core.classifier import (
    Classifier,
    check_images,
    check_logits,
    device_of,
    dtype_of,
    input_size_of,
)
from robustcls.core.errors import InputError

X, Y = torch.rand(4, 3, 5, 5), torch.tensor([0, 1, 2, 0])


def classifier(**options):
    options = {"classes": ["a", "b"], "input_size": (3, 5, 5)} | options
    return Classifier(nn.Flatten(), **options)


def test_normalisation_happens_inside():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
    found = classifier(mean=mean, std=std)(X).view_as(X)
    for channel in range(3):
        torch.testing.assert_close(found[:, channel], (X[:, channel] - mean[channel]) / std[channel])
    torch.testing.assert_close(classifier()(X).view_as(X), X)
    assert set(classifier().state_dict()) == {"mean", "std"}, "the normalisation travels with the weights"


def test_wrong_normalisation():
    with pytest.raises(InputError, match="mean has 2 values for 3 channels"):
        classifier(mean=(0.1, 0.2))
    with pytest.raises(InputError, match="std .* is not positive"):
        classifier(std=(0.1, 0.0, 0.2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": (103, 101.5, 104.5)}, r"mean 103,101.5,104.5 .* in grey levels\? .* mean 0.4039,0.398,0.4098"),
        ({"std": (53.8, 54, 54)}, r"std 53.8,54,54 .* in grey levels\? .* std 0.211,0.2118,0.2118"),
        ({"mean": (0.5,), "std": (127.5,)}, "std 127.5 .* std 0.5"),
        ({"mean": (-0.5,)}, "mean -0.5 cannot be that of pixels in .0, 1.* give the mean of each channel"),
        ({"mean": (float("nan"),)}, "mean nan"),
        ({"std": (float("nan"),)}, "not positive"),
    ],
)
def test_a_normalisation_that_is_not_for_pixels_between_0_and_1_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        classifier(**options)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (X * 255, Y, "not in [0, 1]: give pixels"),
        (X - 0.5, Y, "not in [0, 1]"),
        (X.where(X > 0.5, float("nan")), Y, "lie in [nan, nan]"),
        ((X * 255).byte(), Y, "torch.uint8: give floats in [0, 1], for instance images.float() / 255"),
        (X[0], Y, "of shape (3, 5, 5): give a non-empty float tensor N,C,H,W"),
        (X[:0], Y[:0], "of shape (0, 3, 5, 5)"),
        (X.numpy(), Y, "give a non-empty float tensor"),
        (X, Y[:2], "labels of shape (2,)"),
        (X, Y[:, None], "labels of shape (4, 1)"),
        (X, Y.float(), "torch.float32 for 4 images: give one integer per image"),
        (X, Y - 1, "label -1 is negative"),
        (X, Y.tolist(), "labels are list: give a tensor"),
        (X, Y.numpy(), "labels are ndarray: give a tensor"),
    ],
)
def test_images_and_labels(images, labels, message):
    with pytest.raises(InputError) as caught:
        check_images(images, labels, (3, 5, 5))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes():
    check_images(X, Y, (3, 5, 5))
    check_images(X.half(), Y.int())
    with pytest.raises(InputError, match="images are 3x5x5, the model takes 3x32x32"):
        check_images(X, Y, (3, 32, 32))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(4, 1), "two classes or more"),
        (torch.zeros(4), "(4,)"),
        (torch.zeros(4, 2, 2), "(4, 2, 2)"),
        ((torch.zeros(4, 3),), "tuple"),
        (torch.zeros(4, 2), "label 2 is beyond the model's 2 classes"),
    ],
)
def test_logits(logits, message):
    with pytest.raises(InputError) as caught:
        check_logits(logits, Y)
    assert message in str(caught.value)


def test_what_a_model_says_of_itself():
    assert device_of(nn.Flatten()) == torch.device("cpu")
    assert dtype_of(nn.Flatten()) == torch.float32
    assert dtype_of(nn.Linear(1, 1).double()) == torch.float64
    assert dtype_of(nn.BatchNorm1d(1, affine=False).bfloat16()) == torch.bfloat16
    model = nn.Linear(1, 1)
    assert input_size_of(model) is None
    for foreign in (224, "big", (224, 224)):
        model.input_size = foreign
        assert input_size_of(model) is None
    model.input_size = (3, 5, 5)
    assert input_size_of(model) == (3, 5, 5)
