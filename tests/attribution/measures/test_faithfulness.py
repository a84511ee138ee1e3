"""Faithfulness and sanity controls on models with known answers, and against captum."""

import itertools
import math

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max as captum_sensitivity_max
from torch import Tensor, nn

from robustcls.api import explain
from robustcls.attribution.measures.faithfulness import (
    _random_squares,
    completeness_gap,
    deletion,
    infidelity,
    insertion,
    sensitivity_max,
)
from robustcls.attribution.measures.sanity import other_class
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from tests.helpers.attribution_nets import linear_with_weight, small_classifier
from tests.helpers.seeds import random_states

TARGET = torch.tensor([2, 0, 1, 2])


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def linear() -> tuple[nn.Module, Tensor]:
    return linear_with_weight(8)


@pytest.fixture
def model() -> Classifier:
    return small_classifier()


class Corner(nn.Module):
    """A model with logits (s, 0), where s depends only on a weighted sum of the four pixels at the top left."""

    weights = torch.tensor([[4.0, 3.0], [2.0, 1.0]])

    def forward(self, x: Tensor) -> Tensor:
        s = 2 * (x[:, :, :2, :2].mean(1) * self.weights).sum((1, 2)) - 10
        return torch.stack([s, torch.zeros_like(s)], 1)


def test_completeness_of_a_linear_model(linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    net, weight = linear
    baseline = images.flip(0) / 2
    maps = weight[TARGET] * (images - baseline)
    assert completeness_gap(net, images, TARGET, maps, baseline).max() < 1e-5
    assert completeness_gap(net, images, TARGET, maps.sum(1), baseline).max() < 1e-5  # N,H,W
    gap = completeness_gap(net, images, TARGET, 1.01 * maps, baseline)
    assert gap.dtype == torch.float64
    torch.testing.assert_close(gap, torch.full((4,), 0.01, dtype=torch.float64), rtol=0, atol=1e-5)  # 1%
    gap = completeness_gap(net, images, TARGET, -maps, baseline)
    torch.testing.assert_close(gap, torch.full((4,), 2.0, dtype=torch.float64), rtol=0, atol=1e-5)


def test_completeness_where_the_logit_does_not_change(linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    gap = completeness_gap(linear[0], images[:1], TARGET[:1], images[:1], images[:1])
    assert gap.item() == math.inf
    assert completeness_gap(linear[0], images[:1], TARGET[:1], 0 * images[:1], images[:1]).isnan().item()


def _areas_by_hand(x: Tensor, blank: Tensor, maps: Tensor, steps: int) -> tuple[float, float]:
    """Return insertion and deletion of one image, pixel by pixel in plain Python; `steps` must divide the number of pixels."""
    height, width = maps.shape
    places = sorted(((i, j) for i in range(height) for j in range(width)), key=lambda p: (-maps[p].item(), p))
    areas = []
    for start, end in ((blank, x), (x, blank)):
        image, points = start.clone(), []
        for turn in range(len(places) + 1):
            if turn % (len(places) // steps) == 0:
                points.append(Corner()(image[None]).softmax(1)[0, 0].item())
            if turn < len(places):
                i, j = places[turn]
                image[:, i, j] = end[:, i, j]
        areas.append(sum((p + q) / 2 / steps for p, q in itertools.pairwise(points)))
    return areas[0], areas[1]


@pytest.mark.parametrize("steps", [1, 4, 16, 64])
def test_insertion_and_deletion_by_hand(steps: int, images: Tensor) -> None:
    maps = (3 * torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(2))).round()  # with ties
    blank, target = images.flip(3) / 3, torch.zeros(4, dtype=torch.int64)
    expected = [_areas_by_hand(*sample, steps) for sample in zip(images, blank, maps, strict=True)]
    inserted = insertion(Corner(), images, target, maps, blank=blank, steps=steps)
    deleted = deletion(Corner(), images, target, maps, blank=blank, steps=steps)
    assert inserted.dtype == deleted.dtype == torch.float64
    np.testing.assert_allclose(inserted, [pair[0] for pair in expected], rtol=0, atol=1e-6)
    np.testing.assert_allclose(deleted, [pair[1] for pair in expected], rtol=0, atol=1e-6)


def test_the_right_order_beats_a_random_one_which_beats_the_reverse() -> None:
    x, blank, target = torch.ones(3, 1, 8, 8), torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    right = torch.zeros(3, 8, 8)
    right[:, :2, :2] = Corner.weights
    random = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    areas = [insertion(Corner(), x, target, maps, blank=blank) for maps in (right, random, -right)]
    assert (areas[0] > areas[1] + 0.1).all()
    assert (areas[1] > areas[2] + 0.1).all()
    # The first of 16 steps inserts the four pixels: the curve goes from p(blank) to p(image) and then stays flat.
    high, low = 1 / (1 + math.exp(-10)), 1 / (1 + math.exp(10))
    assert areas[0][0].item() == pytest.approx((high + low) / 2 / 16 + high * 15 / 16, abs=1e-6)
    assert areas[2][0].item() == pytest.approx((high + low) / 2 / 16 + low * 15 / 16, abs=1e-6)
    areas = [deletion(Corner(), x, target, maps, blank=blank) for maps in (right, random, -right)]
    assert (areas[0] < areas[1] - 0.1).all()
    assert (areas[1] < areas[2] - 0.1).all()


def test_areas_where_steps_do_not_divide_the_pixels(images: Tensor) -> None:
    """If the probability is constant, the area equals it for any number of steps, also for more steps than pixels."""
    target, maps = torch.zeros(4, dtype=torch.int64), images.sum(1)[:, :, :5]
    x = images[..., :5]
    probability = Corner()(x).double().softmax(1)[:, 0]
    for steps in (1, 7, 16, 100):
        for measure in (insertion, deletion):
            area = measure(Corner(), x, target, maps, blank=x, steps=steps)
            torch.testing.assert_close(area, probability, rtol=0, atol=1e-6)
    # 27 steps insert 1 or 2 of the 40 pixels at a time. The points lie at the share of pixels inserted so far.
    blank = torch.zeros(1, 1, 8, 5)
    counts = [round(step * 40 / 27) for step in range(28)]
    inserted = [torch.cat([torch.ones(count), torch.zeros(40 - count)]).view(1, 1, 8, 5) for count in counts]
    curve = [Corner()(image).double().softmax(1)[0, 0].item() for image in inserted]
    area = insertion(Corner(), blank + 1, target[:1], -torch.arange(40.0).view(1, 8, 5), blank=blank, steps=27)
    assert area.item() == pytest.approx(
        sum((q[0] - p[0]) * (p[1] + q[1]) / 80 for p, q in itertools.pairwise(zip(counts, curve, strict=True))),
        abs=1e-6,
    )


def test_a_map_that_is_not_finite_has_no_area(images: Tensor) -> None:
    maps = images.sum(1)
    maps[2, 1, 1] = torch.nan
    areas = insertion(Corner(), images, torch.zeros(4, dtype=torch.int64), maps, blank=0 * images)
    assert areas.isnan().tolist() == [False, False, True, False]


def test_infidelity_of_a_linear_model(linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    """The exact contributions of the pixels, at any scale, explain every fall of the logit; noise explains next to nothing."""
    net, weight = linear
    maps = (weight[TARGET] * images).sum(1)
    blank = torch.zeros_like(images)
    before = random_states()
    assert infidelity(net, images, TARGET, maps, blank=blank).max() < 1e-10
    assert infidelity(net, images, TARGET, 7 * maps, blank=blank).max() < 1e-10
    assert random_states() == before
    noise = torch.randn(maps.shape, generator=torch.Generator().manual_seed(4))
    assert infidelity(net, images, TARGET, noise, blank=blank).min() > 0.3
    torch.testing.assert_close(
        infidelity(net, images, TARGET, 0 * maps, blank=blank), torch.ones(4, dtype=torch.float64)
    )


def test_infidelity_is_captums_over_the_mean_square_of_the_falls(model: Classifier, images: Tensor) -> None:
    model.eval()
    blank = images.mean((2, 3), keepdim=True).expand_as(images)
    maps = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))
    ours, reverse = (infidelity(model, images, TARGET, sign * maps, blank=blank, draws=9, seed=5) for sign in (1, -1))
    # One of the two maps has the wrong sign, so ours gives 1; captum would rescale it by a negative factor.
    assert (torch.maximum(ours, reverse) == 1).all()
    masks = _random_squares(images, 9, 5)
    assert 0.3 < masks.float().mean() < 0.7
    moved = torch.where(masks[None, :, None], blank[:, None], images[:, None])  # captum's order: by image

    def perturbed(x: Tensor) -> tuple[Tensor, Tensor]:
        return masks.float()[None, :, None].expand(4, -1, 3, -1, -1).flatten(0, 1), moved.flatten(0, 1)

    theirs = captum_infidelity(
        model,
        perturbed,
        images,
        maps[:, None].expand_as(images) / 3,
        target=TARGET,
        n_perturb_samples=9,
        normalize=True,
    )
    with torch.no_grad():
        logits = model(moved.flatten(0, 1)).view(4, 9, 3)
        falls = (model(images)[:, None] - logits)[torch.arange(4), :, TARGET]
    torch.testing.assert_close(
        torch.minimum(ours, reverse), (theirs / falls.square().mean(1)).double(), rtol=1e-4, atol=1e-6
    )
    assert not torch.equal(ours, infidelity(model, images, TARGET, maps, blank=blank, draws=9, seed=6))


def test_sensitivity_is_captums(model: Classifier, images: Tensor) -> None:
    seen: list[Tensor] = []

    def explained(x: Tensor) -> Tensor:
        seen.append(x)
        return explain(model, x, TARGET, "saliency(signed=True)") * x  # so that the map changes with x

    before = random_states()
    ours = sensitivity_max(explained, images, draws=3, radius=0.3, seed=5)
    assert random_states() == before
    moved = torch.stack(seen[1:], 1).flatten(0, 1)  # captum's order: by image
    assert moved.shape == (12, 3, 8, 8)
    assert (moved - images.repeat_interleave(3, 0)).abs().max() <= 0.3 + 1e-6
    assert moved.min() == 0
    assert moved.max() == 1

    def both(x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        targets = TARGET.repeat_interleave(len(x[0]) // 4)
        return (explain(model, x[0], targets, "saliency(signed=True)") * x[0],)

    theirs = captum_sensitivity_max(both, images, lambda x: (moved,), n_perturb_samples=3)
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=0)
    given = sensitivity_max(explained, images, explained(images), draws=3, radius=0.3, seed=5)
    assert torch.equal(given, ours)
    assert not torch.equal(sensitivity_max(explained, images, draws=3, radius=0.3, seed=6), ours)


def test_sensitivity_in_closed_form(images: Tensor) -> None:
    assert sensitivity_max(torch.ones_like, images).max() == 0
    zero_first = torch.tensor([0.0, 1, 1, 1]).view(4, 1, 1, 1)
    values = sensitivity_max(lambda x: x * zero_first, images)
    assert values.isnan().tolist() == [True, False, False, False]
    assert 0 < values[1] < 0.02 / images[1].square().mean().sqrt()


def test_the_model_is_left_as_it_was(model: Classifier, images: Tensor) -> None:
    """The model is in training mode; its dropout and BatchNorm must not act as in training, and nothing may change."""
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = random_states()
    maps = images.sum(1)
    blank = 0 * images
    first, second = (
        [
            completeness_gap(model, images, TARGET, maps, blank),
            insertion(model, images, TARGET, maps, blank=blank),
            deletion(model, images, TARGET, maps, blank=blank),
            infidelity(model, images, TARGET, maps, blank=blank),
        ]
        for _ in range(2)
    )
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))
    assert not any(value.requires_grad for value in first)
    assert random_states() == state
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_many_images_go_in_chunks(images: Tensor) -> None:
    sizes: list[int] = []
    net = Corner()
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    x = images.repeat(75, 1, 1, 1)
    target = torch.zeros(300, dtype=torch.int64)
    whole = insertion(net, x, target, x.sum(1), blank=0 * x)
    assert max(sizes) == 256
    assert len(sizes) == 2 * 17
    torch.testing.assert_close(whole[-4:], insertion(net, images, target[:4], images.sum(1), blank=0 * images))


def test_wrong_input_is_named(linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    net, maps = linear[0], images.sum(1)
    with pytest.raises(InputError, match="collapse"):
        insertion(net, images, TARGET, images, blank=images)
    with pytest.raises(InputError, match="blank is"):
        deletion(net, images, TARGET, maps, blank=images[:1])
    with pytest.raises(InputError, match="steps=0"):
        deletion(net, images, TARGET, maps, blank=images, steps=0)
    with pytest.raises(InputError, match="beyond the model's 3 classes"):
        insertion(net, images, TARGET + 1, maps, blank=images)
    with pytest.raises(InputError, match="beyond the model's 3 classes"):
        infidelity(net, images, TARGET + 1, maps, blank=images)
    with pytest.raises(InputError, match="baseline is"):
        completeness_gap(net, images, TARGET, maps, images[:, :1])
    with pytest.raises(InputError, match="infidelity: maps"):
        infidelity(net, images, TARGET, maps[:, :4], blank=images)
    with pytest.raises(InputError, match="draws=1"):
        infidelity(net, images, TARGET, maps, blank=images, draws=1)
    with pytest.raises(InputError, match="collapse"):
        infidelity(net, images, TARGET, images, blank=images)
    with pytest.raises(InputError, match="draws=0"):
        sensitivity_max(torch.ones_like, images, draws=0)
    with pytest.raises(InputError, match="radius=0"):
        sensitivity_max(torch.ones_like, images, radius=0)
    with pytest.raises(InputError, match="3 maps for 4 images"):
        sensitivity_max(torch.ones_like, images, maps[:3])
    with pytest.raises(InputError, match="leaves no other"):
        other_class(TARGET, 1, 0)
    with pytest.raises(InputError, match="classes count from 0"):
        other_class(TARGET, 2, 0)
