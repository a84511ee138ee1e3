"""The methods that captum computes, against captum called by hand and against closed forms on a linear model."""

import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import (
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    GradientShap,
    GuidedGradCam,
    InputXGradient,
    KernelShap,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn

import robustcls
from robustcls.attribution._baselines import baseline_of
from robustcls.attribution.superpixels import segmented
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from tests.helpers.attribution_nets import linear_with_weight

TARGET = torch.tensor([2, 0, 1])


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> Classifier:
    """Return a model whose activations share no tensor and whose pooling windows do not overlap, so that captum is correct."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 3)),
    )
    return Classifier(net, classes=list("abc"), input_size=(3, 16, 16), mean=[0.4, 0.5, 0.6], std=[0.25]).eval()


@pytest.fixture(scope="module")
def linear() -> tuple[nn.Module, Tensor]:
    return linear_with_weight(16)


def seed(value: int = 0) -> None:
    torch.manual_seed(value)
    np.random.seed(value)


def by_hand(model: nn.Module, method: str, x: Tensor, y: Tensor) -> Tensor:
    """Return captum's map of one image."""
    black, three = torch.zeros_like(x), torch.cat([baseline_of(x, kind) for kind in ("black", "mean", "blur")])
    mask = segmented(x[0], 16)[None, None]
    seed()
    if method == "input_x_gradient":
        return InputXGradient(model).attribute(x.clone().requires_grad_(), y)
    if method == "smoothgrad(samples=7, noise=0.2)":
        tunnel = NoiseTunnel(Saliency(model))
        maps = tunnel.attribute(x.clone().requires_grad_(), nt_samples=7, stdevs=0.2, target=y, abs=False)
        return maps.abs()
    if method == "gradient_shap(samples=9, noise=0.1)":
        return GradientShap(model).attribute(x, three, n_samples=9, stdevs=0.1, target=y)
    if method == "deeplift(baseline='blur')":
        return DeepLift(model).attribute(x, baseline_of(x, "blur"), y)
    if method == "deeplift_shap":
        return DeepLiftShap(model).attribute(x, three, y)
    if method == "occlusion(window=4, stride=3, baseline='mean')":
        return Occlusion(model).attribute(x, (3, 4, 4), (3, 3, 3), baseline_of(x, "mean"), y)[:, 0]
    if method == "feature_ablation(segments=16)":
        return FeatureAblation(model).attribute(x, black, y, feature_mask=mask)[:, 0]
    if method == "lime(samples=60, segments=16)":
        return Lime(model, SkLearnRidge(alpha=1.0)).attribute(x, black, y, feature_mask=mask, n_samples=60)[:, 0]
    if method == "kernel_shap(samples=60, segments=16)":
        return KernelShap(model).attribute(x, black, y, feature_mask=mask, n_samples=60)[:, 0]
    assert method == "guided_gradcam(layer='net.5')"
    layer = model.get_submodule("net.5")
    return GuidedGradCam(model, layer).attribute(x.clone().requires_grad_(), y, interpolate_mode="bilinear")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "method",
    [
        "input_x_gradient", "smoothgrad(samples=7, noise=0.2)", "gradient_shap(samples=9, noise=0.1)",
        "deeplift(baseline='blur')", "deeplift_shap", "occlusion(window=4, stride=3, baseline='mean')",
        "feature_ablation(segments=16)", "lime(samples=60, segments=16)", "kernel_shap(samples=60, segments=16)",
        "guided_gradcam(layer='net.5')",
    ],
)  # fmt: skip
def test_a_method_agrees_with_captum_called_by_hand(method: str, model: Classifier, images: Tensor) -> None:
    ours = robustcls.explain(model, images, TARGET, method)
    theirs = [by_hand(model, method, images[i : i + 1], TARGET[i : i + 1]).detach() for i in range(len(images))]
    torch.testing.assert_close(ours, torch.cat(theirs).float(), rtol=0, atol=min(1e-6, 1e-4 * ours.abs().max().item()))
    assert (ours.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("method", ["deeplift", "integrated_gradients(steps=2)", "input_x_gradient"])
def test_signed_methods_of_a_linear_model(method: str, linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    net, weight = linear
    maps = robustcls.explain(net, images, TARGET, method)
    torch.testing.assert_close(maps, weight[TARGET] * images, rtol=0, atol=1e-6)


def test_shap_methods_of_a_linear_model(linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    net, weight = linear
    background = torch.rand(5, 3, 16, 16)
    maps = robustcls.explain(net, images, TARGET, "deeplift_shap", background=background)
    torch.testing.assert_close(maps, weight[TARGET] * (images - background.mean(0)), rtol=0, atol=1e-6)
    one = robustcls.explain(net, images, TARGET, "gradient_shap(samples=3)", background=background[:1])
    torch.testing.assert_close(one, weight[TARGET] * (images - background[0]), rtol=0, atol=1e-6)


def test_smoothgrad_of_a_linear_model_is_its_weight(linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    net, weight = linear
    maps = robustcls.explain(net, images, TARGET, "smoothgrad(samples=3, signed=True)")
    torch.testing.assert_close(maps, weight[TARGET], rtol=0, atol=1e-6)


def by_segment(values: Tensor, images: Tensor, segments: int) -> Tensor:
    """Return maps in which each pixel has the sum of the values in its superpixel."""
    maps = []
    for value, image in zip(values, images, strict=True):
        mask = segmented(image, segments)
        sums = torch.zeros(int(mask.max()) + 1, dtype=value.dtype).index_add_(0, mask.flatten(), value.flatten())
        maps.append(sums[mask])
    return torch.stack(maps)


@pytest.mark.parametrize("method", ["feature_ablation(segments=12)", "kernel_shap(samples=80, segments=12)"])
def test_superpixels_of_a_linear_model(method: str, linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    net, weight = linear
    maps = robustcls.explain(net, images, TARGET, method)
    expected = by_segment((weight[TARGET] * images).sum(1), images, 12)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-4 if "shap" in method else 1e-6)


def test_occlusion_of_a_linear_model(linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    net, weight = linear
    maps = robustcls.explain(net, images, TARGET, "occlusion(window=4, stride=4)")
    falls = nn.functional.avg_pool2d((weight[TARGET] * images).sum(1, keepdim=True), 4) * 16
    torch.testing.assert_close(maps, nn.functional.interpolate(falls, scale_factor=4)[:, 0], rtol=0, atol=1e-6)


def test_superpixels_hold_like_pixels_together_and_are_repeatable(images: Tensor) -> None:
    halves = torch.zeros(3, 16, 16)
    halves[:, :, 7:] = 1
    mask = segmented(halves, 2)
    assert mask.unique().tolist() == [0, 1]
    assert (mask[:, :7] == mask[0, 0]).all()
    assert (mask[:, 7:] == mask[0, 15]).all()
    assert torch.equal(segmented(images[0], 20), segmented(images[0], 20))
    assert 10 <= segmented(images[0], 20).max() + 1 <= 25


def test_the_adversarial_image_keeps_the_superpixels_of_its_reference(
    linear: tuple[nn.Module, Tensor], images: Tensor
) -> None:
    net, weight = linear
    x_adv = torch.rand(images.shape, generator=torch.Generator().manual_seed(5))
    maps = robustcls.explain(net, x_adv, TARGET, "feature_ablation(segments=12)", reference=images)
    expected = by_segment((weight[TARGET] * x_adv).sum(1), images, 12)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="one per image"):
        robustcls.explain(net, x_adv, TARGET, "feature_ablation", reference=images[:1])


def test_draws_depend_on_the_seed_alone(model: Classifier, images: Tensor) -> None:
    for method in ("smoothgrad(samples=3)", "gradient_shap(samples=3)", "kernel_shap(samples=20, segments=4)"):
        first, again, other = (robustcls.explain(model, images, TARGET, method, seed=value) for value in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_an_image_has_the_same_draws_wherever_it_stands(model: Classifier, images: Tensor) -> None:
    for method in ("smoothgrad(samples=3)", "gradient_shap(samples=3)"):
        whole = robustcls.explain(model, images, TARGET, method)
        alone = robustcls.explain(model, images[2:], TARGET[2:], method)
        torch.testing.assert_close(whole[2:], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("smoothgrad(samples=0)", "give positive ones"),
        ("smoothgrad(noise=0)", "give positive ones"),
        ("gradient_shap(samples=0)", "give positive ones"),
        ("occlusion(window=17)", "give a window from 1 to 16"),
        ("occlusion(window=2, stride=3)", "a stride from 1 to the window"),
        ("lime(samples=10)", "give at least as many samples"),
        ("kernel_shap(segments=1)", "give from 2 to 256"),
        ("feature_ablation(segments=257)", "give from 2 to 256"),
        ("guided_gradcam(layer='net.55')", "no layer 'net.55'"),
        ("deeplift(baseline='white')", "'black' or 'mean' or 'blur'"),
    ],
)
def test_wrong_options_are_named_in_one_line(method: str, message: str, model: Classifier, images: Tensor) -> None:
    with pytest.raises(InputError, match=message) as caught:
        robustcls.explain(model, images, TARGET, method)
    assert "\n" not in str(caught.value)
