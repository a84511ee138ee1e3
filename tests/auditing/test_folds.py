"""Folds are stratified, cover every image once, and keep duplicates together."""

import pytest
import torch
from torch import nn

from robustcls.auditing.config import AuditConfig
from robustcls.auditing.duplicates import Group
from robustcls.auditing.folds import Mirrored, divide, fold_options, probabilities_of


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_folds_hold_each_class_in_equal_parts(folds):
    labels = torch.tensor([0] * 50 + [1] * 13 + [2] * 5)
    fold = divide(labels, folds, 0)
    for label in range(3):
        counts = fold[labels == label].bincount(minlength=folds)
        assert counts.max() - counts.min() <= 1
    sizes = fold.bincount(minlength=folds)
    assert sizes.max() - sizes.min() <= 3


def test_the_seed_draws_them():
    labels = torch.arange(100) % 4
    assert torch.equal(divide(labels, 2, 5), divide(labels, 2, 5))
    assert not torch.equal(divide(labels, 2, 5), divide(labels, 2, 6))


def test_duplicates_share_a_fold():
    labels = torch.arange(40) % 2
    groups = [Group((0, 1, 2), 1.0), Group((10, 25), 0.9)]
    alone = divide(labels, 2, 0)
    fold = divide(labels, 2, 0, groups)
    assert len(set(fold[[0, 1, 2]].tolist())) == len(set(fold[[10, 25]].tolist())) == 1
    assert len(set(alone[[0, 1, 2]].tolist()) | set(alone[[10, 25]].tolist())) == 2


def test_the_mean_over_an_image_and_its_mirror_image(digits):
    images = digits.take(torch.arange(30))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, _ = images.batch()
    with torch.no_grad():
        one, other = net(x).softmax(1), net(x.flip(3)).softmax(1)
    assert torch.allclose(probabilities_of(net, images), one)
    assert torch.allclose(probabilities_of(Mirrored(net), images), (one + other) / 2)


@pytest.mark.parametrize(
    ("data", "recipe", "augment"),
    [
        ("digits", "", "mixup"),
        ("cifar10", "", "crop_flip+mixup"),
        ("cifar10", 'augment = "cutout"', "cutout"),
        ("digits", 'augment = "none"', "none"),
    ],
)
def test_fold_models_are_trained_on_mixed_images_unless_the_recipe_sets_the_augmentation(
    data, recipe, augment, tmp_path
):
    file = tmp_path / "recipe.toml"
    file.write_text(recipe, encoding="utf-8")
    options, _ = fold_options(AuditConfig(data=data, recipe=str(file)))
    assert options.augment == augment
