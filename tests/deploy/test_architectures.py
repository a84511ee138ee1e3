"""Our architectures and those of torchvision as ONNX files: file and twin agree with the network."""

import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer, get_model

import robustcls
from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.deploy.export import BATCHES, TOLERANCE
from robustcls.models.checkpoint import build
from robustcls.models.onnx.net import net_of

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

# Of the VGGs only the smallest and the largest, because the others have the same layers.
OURS = {name: f"{name}(width=0.125)" for name in plugins.names("model") if name not in ("vgg13", "vgg16")} | {
    "wide_resnet": "wide_resnet(depth=10, width=1)"
}
TORCHVISION = {  # narrow networks and small images
    "googlenet": (
        64,
        lambda: get_model("googlenet", weights=None, num_classes=10, aux_logits=False, init_weights=False),
    ),
    "mobilenet_v3_small": (64, lambda: get_model("mobilenet_v3_small", weights=None, num_classes=10, width_mult=0.5)),
    "swin": (32, lambda: SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=10)),
    "vit": (32, lambda: VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ours(spec):
    return build(spec, classes=[str(number) for number in range(10)], input_size=(3, 32, 32), mean=MEAN, std=STD)


def of_torchvision(name):
    side, make = TORCHVISION[name]
    classes = [str(number) for number in range(10)]
    return Classifier(make(), classes=classes, input_size=(3, side, side), mean=MEAN, std=STD, arch=name)


def with_statistics(model):
    """Return the model as if trained: BatchNorm is not the identity, and weights that start at zero, such as the head of
    torchvision's ViT, are not zero."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
    for weight in model.parameters():
        if not weight.any() and weight.ndim == 2:
            nn.init.normal_(weight, std=0.1)
    return model.eval()


def check(model, folder, images):
    artefact = robustcls.export(model, folder, calibration=images)
    loaded = artefact.load()
    net = net_of(loaded)
    assert net.differentiable, net.no_gradient
    checked = artefact.manifest.checked
    assert checked.batch_sizes == list(BATCHES) == [1, 32]
    assert checked.largest_difference <= TOLERANCE * checked.largest_logit
    assert checked.ties <= 2
    with torch.no_grad():
        expected, logits = model(images), loaded(images)
        with net.in_pytorch():
            twin = loaded(images)
    top = expected.topk(2).values
    clear = top[:, 0] - top[:, 1] > 2 * TOLERANCE * expected.abs().max()
    for found in (logits, twin):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
        assert torch.equal(found.argmax(1)[clear], expected.argmax(1)[clear])


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_our_architectures(name, tmp_path):
    check(with_statistics(ours(OURS[name])), tmp_path / "artefact", torch.rand(33, 3, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_of_torchvision(name, tmp_path):
    side, _ = TORCHVISION[name]
    check(with_statistics(of_torchvision(name)), tmp_path / "artefact", torch.rand(33, 3, side, side))
