"""The prepared copy: DeepLIFT of a model with reused, overlapping and in-place layers equals that of a twin without them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustcls
from robustcls.attribution._preparation import Alone, SideBySide, prepared
from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build


class Tangled(nn.Module):
    """A network with one in-place ReLU module used twice, an in-place ReLU function, and one pooling module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.conv3, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(54, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(self.conv0(x)))
        x = self.relu(x)
        out = self.relu(self.conv2(x))
        out += x
        out = F.relu(self.pool(self.conv3(out)), inplace=True)
        return self.head(out.flatten(1))

    def conv0(self, x: Tensor) -> Tensor:
        return x - 0.5


class Rewritten(Tangled):
    """The same function with a separate module for each use, and separate tensors between them."""

    def __init__(self) -> None:
        super().__init__()
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.pool1(self.conv1(self.conv0(x))) * 1)
        x = self.relu2(self.conv2(x)) + x
        return self.head(self.relu3(self.pool2(self.conv3(x)) * 1).flatten(1))


class Untraceable(Rewritten):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() >= 0 else -x)


class UntraceableTangled(Tangled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() >= 0 else -x)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def net(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    weights = Tangled().state_dict()
    made = kind().eval()
    made.load_state_dict(weights)
    return made


@pytest.mark.filterwarnings("ignore")
def test_a_reused_relu_in_place_gives_the_maps_of_the_rewritten_twin(images: Tensor) -> None:
    from captum.attr import DeepLift

    tangled, rewritten = net(Tangled), net(Rewritten)
    torch.testing.assert_close(tangled(images), rewritten(images), rtol=1e-6, atol=1e-6)
    target = torch.tensor([1, 0, 3])
    maps = robustcls.explain(tangled, images, target, "deeplift")
    for i in range(3):
        by_hand = DeepLift(rewritten).attribute(images[i : i + 1], torch.zeros(1, 3, 12, 12), target[i : i + 1])
        torch.testing.assert_close(maps[i : i + 1], by_hand.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(robustcls.explain(net(Untraceable), images, target, "deeplift"), maps, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap", "guided_gradcam"])
def test_reuse_that_cannot_be_separated_is_refused_by_name(method: str, images: Tensor) -> None:
    with pytest.raises(InputError, match=r"module '(pool|relu)' runs 2 times in a pass") as caught:
        robustcls.explain(net(UntraceableTangled), images, 1, method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("training", [True, False])
def test_the_copy_has_the_models_logits_and_the_model_is_untouched(training: bool, images: Tensor) -> None:
    tangled = net(Tangled)
    modules = dict(tangled.named_modules())
    copied = prepared(tangled, images, "test")
    torch.testing.assert_close(copied(images), tangled(images), rtol=1e-6, atol=1e-6)
    assert not any(getattr(module, "inplace", False) for module in copied.modules())
    assert sum(isinstance(module, Alone) for module in copied.modules()) == 5
    assert dict(tangled.named_modules()) == modules
    assert tangled.relu.inplace


POOLINGS = [
    {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True}, {"kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": True},
    {"kernel_size": (2, 3), "stride": (1, 2), "dilation": (2, 1)}, {"kernel_size": 2, "stride": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", POOLINGS)
@pytest.mark.parametrize("size", [9, 12])
def test_windows_side_by_side_give_the_poolings_output_and_gradient(options: dict, size: int) -> None:
    x = torch.randn(2, 3, size, size + 1, dtype=torch.float64, requires_grad=True)
    pooling = nn.MaxPool2d(**options)
    found, expected = SideBySide(pooling)(x), pooling(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    weight = torch.randn_like(expected)
    (one,), (other,) = (torch.autograd.grad((out * weight).sum(), x) for out in (found, expected))
    torch.testing.assert_close(one, other)


def completeness_gap(model: nn.Module, x: Tensor) -> float:
    target = torch.tensor([0, 1])
    maps = robustcls.explain(model, x, target, "deeplift")
    with torch.no_grad():
        change = (model(x) - model(torch.zeros_like(x)))[[0, 1], target]
    return ((maps.flatten(1).sum(1) - change) / change).abs().max().item()


def shaken(model: nn.Module) -> nn.Module:
    """Return the model with weights at which activations neither vanish nor explode, and random BatchNorm statistics."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0, (2 / parameter[0].numel()) ** 0.5)
    return model.eval()


OURS = [
    "vgg11(width=0.25)", "vgg11(width=0.25, activation='silu')", "vgg11(width=0.25, activation='softplus')",
    "resnet18(width=0.125)", "preact_resnet18(width=0.125)", "wide_resnet(depth=10, width=1)",
]  # fmt: skip


@pytest.mark.parametrize("arch", OURS)
def test_deeplift_is_complete_on_our_architectures(arch: str) -> None:
    model = build(arch, classes=list("abcde"), input_size=(3, 32, 32), mean=[0.5], std=[0.25])
    assert completeness_gap(shaken(model), torch.rand(2, 3, 32, 32)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"), [("alexnet", 64), ("vgg11", 32), ("resnet18", 64), ("googlenet", 64), ("inception_v3", 75)]
)
def test_deeplift_is_complete_on_architectures_of_torchvision(name: str, side: int) -> None:
    """They contain overlapping poolings, reused in-place ReLUs, in-place additions, and poolings as functions."""
    torchvision = pytest.importorskip("torchvision")
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = shaken(torchvision.models.get_model(name, weights=None, num_classes=4, **more))
    x = torch.rand(2, 3, side, side)
    assert completeness_gap(model, x) < 1e-3
    for method in ("guided_gradcam", "gradient_shap(samples=2)", "saliency", "occlusion"):
        assert robustcls.explain(model, x[:1], 1, method).isfinite().all()


def test_a_vision_transformer_of_timm_can_be_explained() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=32, patch_size=8, num_classes=4, depth=2
    )
    x = torch.rand(2, 3, 32, 32)
    for method in (
        "deeplift",
        "integrated_gradients(steps=4)",
        "kernel_shap(samples=20, segments=9)",
        "smoothgrad(samples=2)",
    ):
        maps = robustcls.explain(model, x, 1, method)
        assert maps.isfinite().all()
        assert maps.abs().max() > 0


class Noisy(nn.Module):
    """A model whose logits change from call to call, so that no copy can have the same logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)) + torch.rand(1)


def test_a_copy_with_other_logits_is_refused() -> None:
    with pytest.raises(InputError, match="gives logits that differ"):
        robustcls.explain(Noisy(), torch.rand(1, 3, 2, 2), 1, "deeplift")


class InPlace(nn.Module):
    """A model that normalises its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(27, 3)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return self.head(x.flatten(1))


@pytest.mark.parametrize(
    "method",
    ["occlusion", "feature_ablation(segments=4)", "deeplift", "saliency", "integrated_gradients", "kernel_shap"],
)
def test_a_model_that_overwrites_its_input_is_explained_as_it_is(method: str) -> None:
    method = "kernel_shap(samples=40, segments=4)" if method == "kernel_shap" else method
    torch.manual_seed(0)
    model, x = InPlace(), torch.rand(2, 3, 3, 3)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(27, 3))
    plain[1].load_state_dict(model.head.state_dict())
    plain[1].bias.data -= 0.5 * plain[1].weight.sum(1)
    expected = robustcls.explain(plain, x, 1, method)
    torch.testing.assert_close(robustcls.explain(model, x, 1, method), expected, rtol=1e-4, atol=1e-5)


class Functional(nn.Module):
    """A model with an activation that torch.fx cannot reach."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(400, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < 0:
            return -x
        return self.head(F.relu(self.conv(x)).flatten(1))


def test_an_activation_that_cannot_become_a_module_is_refused_by_name(images: Tensor) -> None:
    with pytest.raises(InputError, match="relu is called as a function and torch.fx cannot trace the model"):
        robustcls.explain(Functional(), images, 1, "deeplift")


class OwnReLU(nn.ReLU):
    pass


@pytest.mark.parametrize(
    "activation", [OwnReLU(), nn.PReLU(), nn.Threshold(0.1, 0.0), nn.RReLU(), nn.SELU(), nn.Mish()]
)
def test_deeplift_is_complete_with_other_activations(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Flatten(), nn.Linear(400, 3)).eval()
    assert completeness_gap(model, torch.rand(2, 3, 12, 12)) < 1e-3


@pytest.mark.parametrize("name", ["selu", "celu", "tanh", "sigmoid", "leaky_relu", "logsigmoid", "softsign"])
def test_deeplift_is_complete_with_activations_that_are_functions(name: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(400, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(getattr(F, name)(self.conv(x)).flatten(1))

    torch.manual_seed(0)
    assert completeness_gap(Model(), torch.rand(2, 3, 12, 12)) < 1e-3


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_module_is_refused_by_name(images: Tensor) -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model = nn.Sequential(torch.jit.trace(inner, images), nn.Flatten(), nn.Linear(400, 3)).eval()
    with pytest.raises(InputError, match="0 is a ScriptModule"):
        robustcls.explain(model, images, 1, "deeplift")
    assert robustcls.explain(model, images, 1, "saliency").isfinite().all()
    assert robustcls.explain(torch.jit.trace(model, images), images, 1, "occlusion").isfinite().all()
