"""Properties that hold for every attribution plug-in, and guarantees of `explain` for every method."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustcls
from robustcls.api import explain
from robustcls.attribution import collapse, note
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.plugins import describe, names

CHEAP = {
    "kernel_shap": "(samples=40, segments=9)",
    "lime": "(samples=40, segments=9)",
    "feature_ablation": "(segments=9)",
}
METHODS = [name + CHEAP.get(name, "") for name in names("attribution")]


class Net(nn.Module):
    """A network in which train and eval mode differ, with in-place ReLU, once as a module and once as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.norm(self.conv1(x))), 1)
        x = F.relu(self.conv2(x), inplace=True)
        return self.head(self.drop(x).flatten(1))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    net = Net()
    net.norm.running_mean.uniform_(-0.5, 0.5)
    return net.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_methods_are_plug_ins_and_the_helpers_are_not() -> None:
    files = Path(robustcls.attribution.__file__).parent.glob("[!_]*.py")
    assert {plugin.module for plugin in describe("attribution")} == {
        f"robustcls.attribution.{file.stem}" for file in files
    }
    assert {
        "deeplift", "deeplift_shap", "feature_ablation", "gradcam", "gradient_shap", "guided_gradcam", "input_x_gradient",
        "integrated_gradients", "kernel_shap", "lime", "occlusion", "saliency", "smoothgrad",
    } <= set(names("attribution"))  # fmt: skip
    assert robustcls.explain is explain


@pytest.mark.parametrize("method", METHODS)
def test_maps_have_the_images_size_and_are_finite_and_repeatable(method: str, model: Net, images: Tensor) -> None:
    maps = explain(model, images, target=torch.tensor([0, 1, 2, 3, 0]), method=method)
    assert maps.shape in (images.shape, (5, 16, 16))
    assert maps.dtype == torch.float32
    assert maps.device.type == "cpu"
    assert not maps.requires_grad
    assert maps.isfinite().all()
    assert (maps.flatten(1).abs().amax(1) > 0).all()
    assert torch.equal(maps, explain(model, images, target=[0, 1, 2, 3, 0], method=method))
    assert collapse(maps).shape == (5, 16, 16)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_bit_for_bit(method: str, training: bool, model: Net, images: Tensor) -> None:
    model.conv1.weight.requires_grad_(False)
    model(images).sum().backward()  # leaves gradients behind
    expected = explain(copy.deepcopy(model), images, 1, method)
    model.train(training)
    model.relu.train(not training)  # submodules may be in different modes
    hook = model.conv2.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    pixels = images.clone()
    random = torch.get_rng_state()

    maps = explain(model, images, 1, method)

    assert torch.equal(maps, expected), "the mode of the module must not matter"
    assert torch.equal(images, pixels)
    assert images.grad is None
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    for (name, old), (_, new) in zip(before.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(old, new), name
    for old, new in zip(before.modules(), model.modules(), strict=True):
        assert old.training == new.training
        assert list(new._forward_hooks) == ([hook.id] if new is model.conv2 else [])
        assert not new._forward_pre_hooks
        assert not new._backward_hooks
    for (name, old), (_, new) in zip(before.named_parameters(), model.named_parameters(), strict=True):
        assert old.requires_grad == new.requires_grad, name
        assert (new.grad is None) == (name not in grads)
        assert new.grad is None or torch.equal(new.grad, grads[name])


@pytest.mark.parametrize("method", METHODS)
def test_relu_in_place_gives_the_map_of_relu(method: str, model: Net, images: Tensor) -> None:
    class Plain(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.conv1(x)))
            return self.head(F.relu(self.conv2(x)).flatten(1))

    plain = Plain().eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(images), plain(images), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        explain(model, images, 2, method), explain(plain, images, 2, method), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_batches_of_any_size_give_the_same_maps(method: str, model: Net, images: Tensor) -> None:
    target = torch.tensor([3, 1, 2, 0, 1])
    whole = explain(model, images, target, method)
    torch.testing.assert_close(explain(model, images, target, method, batch_size=2), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_switched_off_outside_do_not_matter(method: str, model: Net, images: Tensor) -> None:
    expected = explain(model, images, 1, method)
    with torch.no_grad():
        assert torch.equal(explain(model, images, 1, method), expected)
    with torch.inference_mode():
        made_here = images * 1
        assert torch.equal(explain(model, made_here, 1, method), expected)


@pytest.mark.parametrize("method", METHODS)
def test_no_warning_reaches_the_user(method: str, model: Net, images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(model, images, 1, method)


@pytest.mark.parametrize("method", METHODS)
def test_no_target_explains_the_predicted_class(method: str, model: Net, images: Tensor) -> None:
    predicted = model(images).argmax(1)
    assert torch.equal(explain(model, images, method=method), explain(model, images, predicted, method))


@pytest.mark.parametrize("method", METHODS)
def test_double_precision_and_grey_images_work(method: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()
    assert explain(net, torch.rand(2, 1, 8, 8), 1, method).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_a_model_on_the_gpu_gives_the_same_maps(method: str, model: Net, images: Tensor) -> None:
    expected = explain(model, images, 1, method)
    there = explain(model.cuda(), images, 1, method)
    assert there.device.type == "cpu"
    torch.testing.assert_close(there, expected, rtol=1e-2, atol=1e-3 * expected.abs().max().item())


def test_notes_say_what_a_reader_must_know(model: Net, images: Tensor) -> None:
    model.train()
    assert note(model, images, "gradcam") == "grid 8x8 of layer conv2"
    assert note(model, images, 'integrated_gradients(steps=7, baseline="blur")') == "baseline blur, 7 steps"
    assert note(model, images, "saliency") == "magnitude of the gradient"
    assert model.norm.training


def test_collapse_sums_channels_and_leaves_flat_maps() -> None:
    maps = torch.randn(2, 3, 4, 5)
    assert torch.equal(collapse(maps), maps.sum(1))
    assert torch.equal(collapse(maps[:, 0]), maps[:, 0])


def test_wrong_input_is_named_in_one_line(model: Net, images: Tensor) -> None:
    classifier = Classifier(model, classes=list("abcd"), input_size=(3, 16, 16))
    wrong = [
        ({"target": 4}, "beyond the model's 4 classes"),
        ({"target": -1}, "negative"),
        ({"target": torch.tensor([0, 1])}, "one integer per image"),
        ({"target": torch.rand(5)}, "one integer per image"),
        ({"images": images * 255}, "not in [0, 1]"),
        ({"images": images[:, :, :8]}, "3x8x16"),
        ({"images": images[0]}, "N,C,H,W"),
        ({"method": "integrated_gradient"}, "did you mean 'integrated_gradients'"),
        ({"method": "saliency(steps=3)"}, "takes signed=False"),
        ({"method": "integrated_gradients(steps=0)"}, "not positive"),
        ({"method": "integrated_gradients(internal_batch_size=0)"}, "not positive"),
        ({"method": "integrated_gradients(baseline='white')"}, "'black' or 'mean' or 'blur'"),
        ({"batch_size": 0}, "not a number of images"),
    ]
    for arguments, message in wrong:
        with pytest.raises(InputError) as caught:
            explain(classifier, **({"images": images, "target": 1} | arguments))
        assert message in str(caught.value), (arguments, str(caught.value))
        assert "\n" not in str(caught.value)


def test_a_model_without_gradients_is_refused(images: Tensor) -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1)[:, :4] > 0.5).float()

    with pytest.raises(InputError, match="differentiable"):
        explain(Steps(), images, 1, "saliency")


def test_a_foreign_method_must_give_maps_of_the_images_size(model: Net, images: Tensor) -> None:
    with pytest.raises(InputError, match="a map must be"):
        explain(model, images, 1, f"{__name__}:shapeless")


def shapeless(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return x.flatten(1)
