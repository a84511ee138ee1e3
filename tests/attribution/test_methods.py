"""Each method against captum called by hand, against closed forms, and against its axioms."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam, Saliency
from torch import Tensor, nn

from robustcls.api import explain
from robustcls.attribution._baselines import baseline_of
from robustcls.attribution.gradcam import layer_and_grid
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from tests.helpers.attribution_nets import linear_with_weight

TARGET = torch.tensor([2, 0, 1, 2])


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> Classifier:
    """Return a small network whose last convolution has a grid of 2x2, like that of VGG16 on 32x32."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(4)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(True), nn.Flatten(), nn.Linear(32, 3)),
    )
    return Classifier(net, classes=list("abc"), input_size=(3, 16, 16), mean=[0.4, 0.5, 0.6], std=[0.25]).eval()


@pytest.fixture
def linear() -> tuple[nn.Module, Tensor]:
    return linear_with_weight(16)


def test_saliency_is_the_weight_of_a_linear_model(linear: tuple[nn.Module, Tensor], images: Tensor) -> None:
    net, weight = linear
    torch.testing.assert_close(explain(net, images, TARGET, "saliency"), weight[TARGET].abs(), rtol=0, atol=1e-7)
    torch.testing.assert_close(explain(net, images, TARGET, "saliency(signed=True)"), weight[TARGET], rtol=0, atol=1e-7)


@pytest.mark.parametrize("baseline", ["black", "mean", "blur"])
def test_integrated_gradients_of_a_linear_model(
    baseline: str, linear: tuple[nn.Module, Tensor], images: Tensor
) -> None:
    net, weight = linear
    maps = explain(net, images, TARGET, f"integrated_gradients(steps=4, baseline='{baseline}')")
    torch.testing.assert_close(maps, weight[TARGET] * (images - baseline_of(images, baseline)), rtol=0, atol=1e-6)


def test_baselines_are_what_they_are_called(images: Tensor) -> None:
    assert baseline_of(images, "black").count_nonzero() == 0
    torch.testing.assert_close(baseline_of(images, "mean")[1, 2, 3, 4], images[1, 2].mean())
    blurred = baseline_of(images, "blur")
    assert blurred.shape == images.shape
    assert blurred.std() < images.std() / 3
    for side in (1, 2, 3, 8):  # the reflected border of the blur must fit the smallest image
        assert baseline_of(torch.rand(1, 1, side, side + 1), "blur").isfinite().all()


def test_saliency_and_integrated_gradients_agree_with_captum(model: Classifier, images: Tensor) -> None:
    for signed in (True, False):
        ours = explain(model, images, TARGET, f"saliency(signed={signed})")
        theirs = Saliency(model).attribute(images.clone().requires_grad_(), TARGET, abs=not signed)
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)
    ours = explain(model, images, TARGET, "integrated_gradients(steps=20, baseline='mean')")
    theirs = IntegratedGradients(model).attribute(images, baseline_of(images, "mean"), TARGET, n_steps=20)
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
def test_integrated_gradients_do_not_depend_on_the_internal_batch_size(
    size: int, model: Classifier, images: Tensor
) -> None:
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    maps = explain(model, images, TARGET, f"integrated_gradients(steps=6, internal_batch_size={size})")
    handle.remove()
    assert max(seen) <= size
    torch.testing.assert_close(
        maps, explain(model, images, TARGET, "integrated_gradients(steps=6)"), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("baseline", ["black", "mean", "blur"])
def test_integrated_gradients_are_complete(baseline: str, model: Classifier, images: Tensor) -> None:
    """The values add up to logit(x) - logit(baseline)."""
    maps = explain(model, images, TARGET, f"integrated_gradients(steps=300, baseline='{baseline}')")
    with torch.no_grad():
        change = (model(images) - model(baseline_of(images, baseline))).gather(1, TARGET[:, None]).squeeze(1)
    error = (maps.flatten(1).sum(1) - change).abs()
    assert error.max() < 0.01 * change.abs().max()


def _gradcam_by_hand(model: nn.Module, layer: nn.Module, x: Tensor, target: Tensor, relu: bool) -> Tensor:
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = layer.register_forward_hook(keep)
    logits = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), kept[0])
    weighted = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True)
    weighted = weighted.clamp_min(0) if relu else weighted
    return F.interpolate(weighted, x.shape[2:], mode="bilinear").squeeze(1).detach()


@pytest.mark.parametrize("layer", ["net.0", "net.4", "net.7", "net.2"])
@pytest.mark.parametrize("relu", [True, False])
def test_gradcam_agrees_with_hooks_and_with_captum(layer: str, relu: bool, model: Classifier, images: Tensor) -> None:
    maps = explain(model, images, TARGET, f"gradcam(layer='{layer}', relu={relu})")
    module = model.get_submodule(layer)
    torch.testing.assert_close(maps, _gradcam_by_hand(model, module, images, TARGET, relu), rtol=0, atol=1e-6)
    captums = LayerGradCam(model, module).attribute(images, TARGET, relu_attributions=relu).detach()
    captums = F.interpolate(captums, (16, 16), mode="bilinear").squeeze(1)
    torch.testing.assert_close(maps, captums, rtol=0, atol=1e-6)
    assert not relu or maps.min() >= 0


def test_gradcam_takes_the_last_convolution_that_is_fine_enough(model: Classifier, images: Tensor) -> None:
    assert layer_and_grid(model, images) == ("net.4", (4, 4))
    assert torch.equal(
        explain(model, images, TARGET, "gradcam"), explain(model, images, TARGET, "gradcam(layer='net.4')")
    )
    assert layer_and_grid(model, images, "net.7") == ("net.7", (2, 2))


def test_gradcam_takes_the_finest_where_none_is_fine_enough() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.AvgPool2d(2), nn.Conv2d(2, 2, 1))
    assert layer_and_grid(net, torch.rand(1, 1, 3, 2)) == ("1", (3, 2))


def test_gradcam_passes_over_a_convolution_that_runs_twice() -> None:
    twice = nn.Conv2d(3, 3, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), twice, twice)
    x = torch.rand(1, 3, 8, 8)
    assert layer_and_grid(net, x) == ("0", (8, 8))
    with pytest.raises(InputError, match="runs 2 times"):
        layer_and_grid(net, x, "1")


def test_gradcam_says_what_is_wrong_with_a_layer(
    model: Classifier, linear: tuple[nn.Module, Tensor], images: Tensor
) -> None:
    for net, method, message in (
        (model, "gradcam(layer='net.44')", r"no layer 'net.44': the nearest are net\.4"),
        (model, "gradcam(layer='zzz')", r"the nearest are net\.0, net\.4, net\.7"),
        (model, "gradcam(layer='net.10')", "has no grid"),
        (linear[0], "gradcam", "no convolution"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            explain(net, images, TARGET, method)
        assert "\n" not in str(caught.value)
