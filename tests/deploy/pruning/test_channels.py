"""Pruned channels: how many, which ones, and that nothing else changes."""

import builtins
import copy

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.data.sets.digits import digits
from robustcls.deploy.prune import prune, size_of
from robustcls.deploy.pruning.channels import channels, kept
from robustcls.results.artefact import Manifest
from tests.helpers.eval_models import train_digits

SIDE, WIDTHS, K = 6, (8, 16, 32), 3
needs_torch_pruning = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("torch_pruning") is None, reason="needs Torch-Pruning"
)


def classifier(net):
    return Classifier(net, classes=("cat", "dog", "ship"), input_size=(1, SIDE, SIDE), arch="chain").eval()


def chain(widths=WIDTHS):
    """Return a network of 3x3 convolutions without biases and a linear layer."""
    layers, inputs = [], 1
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.ReLU()]
        inputs = width
    return classifier(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, K)))


def size_by_hand(widths):
    weights = [9 * a * b for a, b in zip((1, *widths[:-1]), widths, strict=True)]
    head = widths[-1] * K
    return sum(weights) + head + K, SIDE * SIDE * sum(weights) + head


@pytest.fixture
def batch():
    return torch.rand(12, 1, SIDE, SIDE), torch.arange(12) % K


@pytest.mark.parametrize(
    ("width", "ratio", "multiple", "stays"),
    [
        (128, 0.5, 16, 64), (64, 0.3, 16, 48), (26, 0.5, 1, 13),
        (16, 0.5, 16, 8), (16, 0.9, 16, 1), (128, 0.9, 16, 8),  # below the multiple: its half, quarter ...
        (16, 0.01, 16, 16), (20, 0.1, 16, 16), (26, 0.1, 16, 26),
        (10, 0.9, 1, 1), (10, 0.95, 16, 0),
    ],
)  # fmt: skip
def test_what_stays_of_a_layer_is_the_nearest_multiple(width, ratio, multiple, stays):
    assert kept(width, ratio, multiple) == stays


@needs_torch_pruning
@pytest.mark.parametrize("criterion", ["taylor", "l1", "random"])
@pytest.mark.parametrize(("ratio", "left"), [(0.5, (4, 8, 16)), (0.75, (2, 4, 8))])
def test_the_ratio_says_what_is_left_of_parameters_and_multiply_adds(ratio, left, criterion, batch):
    model = chain()
    assert size_of(model) == size_by_hand(WIDTHS)
    channels(model, *batch, ratio=ratio, criterion=criterion)
    assert size_of(model) == size_by_hand(left)
    assert model(batch[0]).shape == (12, K)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@needs_torch_pruning
def test_l1_removes_the_channels_of_least_norm(batch):
    model = chain((4, 4))
    first, second = model.net[0], model.net[2]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([0.3, 0.01, 0.2, 0.02]).view(4, 1, 1, 1).expand_as(first.weight))
        second.weight.fill_(0.1)
    channels(model, *batch, criterion="l1", multiple=1)
    assert first.weight.flatten(1).mean(1).tolist() == pytest.approx([0.3, 0.2])


@needs_torch_pruning
@pytest.mark.parametrize("criterion", ["taylor", "l1"])
def test_channels_of_zero_weights_are_not_missed(criterion, batch):
    model = chain((8, 8))
    with torch.no_grad():
        for layer, dead in ((model.net[0], (0, 3, 5, 6)), (model.net[2], (1, 2, 4, 7))):
            layer.weight[list(dead)] = 0
        model.net[2].weight[:, [0, 3, 5, 6]] = 0
        model.net[6].weight[:, [1, 2, 4, 7]] = 0
    before = model(batch[0])
    channels(model, *batch, criterion=criterion, multiple=1)
    assert model.net[0].out_channels == model.net[2].out_channels == 4
    torch.testing.assert_close(model(batch[0]), before)


@needs_torch_pruning
def test_the_rest_of_the_model_and_the_random_numbers_stay(batch):
    model = chain().train()
    model.net[0].requires_grad_(False)
    state = torch.get_rng_state()
    channels(model, *batch, criterion="random", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True, True, True]


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 1), nn.Linear(8 * SIDE * SIDE, K)

    def forward(self, x):
        return self.last(self.first(x).reshape(len(x), 8, -1).flatten(1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.last = nn.Linear(SIDE, 3 * SIDE), nn.Linear(3 * SIDE, K)

    def forward(self, x):
        return self.last(self.qkv(x[:, 0, 0]))


@needs_torch_pruning
@pytest.mark.parametrize(
    ("net", "options", "says"),
    [
        (None, {"ratio": 1.0}, "ratio=1 leaves no channels"),
        (None, {"ratio": 0.0}, "leaves all channels"),
        (None, {"ratio": 0.95}, "leaves no channel of a layer that has 8: give 0.875 or less"),
        (None, {"ratio": 0.01}, "removes no channel: raise `ratio` or lower `multiple`"),
        (None, {"multiple": 0}, "multiple=0 is not a number"),
        (Fixed(), {}, "the channels of chain cannot be pruned: "),
        (Attention(), {}, "chain has attention layers"),
    ],
)
def test_what_cannot_be_pruned_is_refused_in_a_line(net, options, says, batch):
    model = chain() if net is None else classifier(net)
    with pytest.raises(InputError, match=says) as refused:
        channels(model, *batch, **options)
    assert "\n" not in str(refused.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch, batch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "torch_pruning":
            raise ImportError
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install 'robustcls\[prune\]'"):
        channels(chain(), *batch)


@needs_torch_pruning
def test_a_method_that_leaves_what_no_checkpoint_can_keep_is_refused(batch):
    with pytest.raises(InputError, match="leaves layers that a checkpoint cannot describe"):
        prune(chain(), f"{__name__}:widen", *batch)


def widen(model, images, labels):
    model.net[0] = nn.Conv2d(1, 2 * WIDTHS[0], 3, padding=1)
    model.net[2] = nn.Conv2d(2 * WIDTHS[0], WIDTHS[1], 3, padding=1)


@needs_torch_pruning
def test_export_prunes_a_copy_and_warns_of_what_it_costs(tmp_path):
    pytest.importorskip("onnxscript")
    model, images = chain(), torch.rand(60, 1, SIDE, SIDE)
    before = size_of(model)
    with pytest.warns(UserWarning, match=r"clean accuracy 100\.0% -> .* robust accuracy .* under linf:8/255") as warned:
        artefact = robustcls.export(
            model, tmp_path / "out", calibration=images, prune="channels(ratio=0.5)", threat="linf:8/255"
        )
    assert [one.filename for one in warned if one.category is UserWarning] == [__file__]
    assert size_of(model) == before
    assert artefact.manifest.file.parameters < before[0] / 2
    assert Manifest.of(artefact.folder).pruning == "channels(ratio=0.5, criterion='taylor', multiple=16, seed=0)"


def test_export_prunes_only_on_images(tmp_path):
    with pytest.raises(InputError, match="`prune` ranks channels on images"):
        robustcls.export(chain(), tmp_path / "out", prune="channels")
    assert not (tmp_path / "out").exists()


@needs_torch_pruning
def test_an_effect_that_cancels_over_the_images_is_an_effect():
    """The first of two channels moves as many images towards their label as away from it, so its effects cancel on average;
    the second has no effect. The first must stay."""
    conv, head = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 2)
    with torch.no_grad():
        conv.weight.fill_(1)
        head.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
        head.bias.copy_(torch.tensor([-0.5, 0.5]))  # so that images of 0.5 are undecided
    net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    model = Classifier(net, classes=("cat", "dog"), input_size=(1, SIDE, SIDE), arch="pair").eval()
    channels(model, torch.full((6, 1, SIDE, SIDE), 0.5), torch.arange(6) % 2, ratio=0.5, multiple=1)
    assert model.net[4].weight.tolist() == [[1.0], [-1.0]]


@needs_torch_pruning
def test_taylor_keeps_more_of_a_trained_network_than_chance_does():
    x, y = digits("train", size=8).batch()
    test, labels = digits("test", size=8).batch()
    net = train_digits("fgsm", epochs=12)

    def accuracy(criterion, seed=0):
        names = tuple(map(str, range(10)))
        model = Classifier(copy.deepcopy(net), classes=names, input_size=(1, 8, 8), arch="small")
        channels(model, x[:256], y[:256], ratio=0.4, multiple=1, criterion=criterion, seed=seed)
        with torch.no_grad():
            return (model(test).argmax(1) == labels).double().mean().item()

    chance = [accuracy("random", seed) for seed in range(8)]
    assert accuracy("taylor") > sum(chance) / len(chance) + 0.2
