"""Pruned checkpoints: bit-exact round trips, and refusal of hostile ones."""

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.models.shapes import shapes_of, take_shapes
from robustcls.models.transfer import initialise

ARCH, CLASSES, SIZE = "vgg11(width=0.05)", tuple("abcd"), (3, 8, 8)


def fresh(classes=CLASSES, **options):
    return build(ARCH, classes=classes, input_size=SIZE, **options)


def narrowed(model):
    """Return the model pruned by hand: its first convolution keeps the channels 0 and 2."""
    first, norm, second = model.net[0][0], model.net[0][1], model.net[0][4]
    keep = [0, 2]
    first.weight, first.out_channels = nn.Parameter(first.weight.detach()[keep]), 2
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[keep]))
    norm.running_mean, norm.running_var, norm.num_features = norm.running_mean[keep], norm.running_var[keep], 2
    second.weight, second.in_channels = nn.Parameter(second.weight.detach()[:, keep]), 2
    model.pruned = "by_hand"
    return model.eval()


@pytest.fixture
def model():
    return narrowed(fresh())


@pytest.fixture
def path(model, tmp_path):
    save_checkpoint(tmp_path / "ckpt.pt", model, {})
    return tmp_path / "ckpt.pt"


def test_a_pruned_checkpoint_comes_back_bit_for_bit(model, path):
    content = torch.load(path, weights_only=True)
    assert content["pruned"] == "by_hand"
    assert content["shapes"]["0.0"]["out_channels"] == content["shapes"]["0.4"]["in_channels"] == 2
    loaded = robustcls.load(path)
    x = torch.rand(4, *SIZE)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert (loaded.pruned, shapes_of(loaded.net)) == ("by_hand", shapes_of(model.net))
    save_checkpoint(path.with_name("again.pt"), loaded, {})
    again = torch.load(path.with_name("again.pt"), weights_only=True)
    assert again["shapes"] == content["shapes"]


def test_what_is_not_pruned_is_saved_as_ever(tmp_path):
    save_checkpoint(tmp_path / "ckpt.pt", fresh(), {})
    assert not {"pruned", "shapes"} & torch.load(tmp_path / "ckpt.pt", weights_only=True).keys()


def test_layers_of_several_kinds_take_their_widths():
    def net(width):
        layers = [
            nn.Conv2d(2, width, 1),
            nn.GroupNorm(2, width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, groups=width),
        ]
        return nn.Sequential(*layers, nn.Flatten(2), nn.LayerNorm([width, 4]), nn.Flatten(), nn.Linear(4 * width, 3))

    small, other = net(4), net(8)
    take_shapes(other, shapes_of(small), small.state_dict(), "f")
    other.load_state_dict(small.state_dict())
    x = torch.rand(2, 2, 4, 4)
    torch.testing.assert_close(other(x), small(x))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(shapes=[1]), "they are list"),
        (lambda c: c["shapes"].update({"9.9": {"out_channels": 1}}), "no layer '9.9'"),
        (lambda c: c["shapes"].update({"0.0": 3}), "no layer '0.0' with widths"),
        (lambda c: c["shapes"]["0.0"].update(out_channels=10**15), "is 1000000000000000, not 1 to 3"),
        (lambda c: c["shapes"]["0.0"].update(out_channels=0), "is 0, not 1 to 3"),
        (lambda c: c["shapes"]["0.0"].update(out_channels="2"), "is '2', not"),
        (lambda c: c["shapes"]["0.0"].update(out_channels=True), "is True, not"),
        (lambda c: c["shapes"]["0.0"].update(weight=2), "weight of 0.0"),
        (lambda c: c["shapes"]["0.0"].update(training=1), "training of 0.0"),
        (lambda c: c["state_dict"].update({"0.0.weight": torch.zeros(1).expand(10**5, 10**5)}), "0.0.weight is"),
        (lambda c: c["state_dict"].update({"0.0.weight": torch.zeros(1).expand(10**6, 3, 3, 3)}), "0.0.weight is"),
        (lambda c: c["state_dict"].update({"0.0.weight": torch.zeros(0, 3, 3, 3)}), "0.0.weight is"),
        (lambda c: c["state_dict"].update({"0.0.weight": torch.zeros(1, 3, 3, 3)}), "do not fit together"),
    ],
)
def test_hostile_widths_are_refused_in_a_line(change, says, path):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(InputError, match=says) as refused:
        robustcls.load(path)
    assert "\n" not in str(refused.value)
    assert path.name in str(refused.value)


@pytest.mark.parametrize(("classes", "head"), [(CLASSES, "linear"), (("x", "y"), "linear"), (CLASSES, "8-relu-K")])
def test_training_goes_on_from_a_pruned_backbone_under_any_head(classes, head, path):
    model = fresh(classes, head=head)
    initialise(model, str(path))
    assert (model.pruned, model.net[0][0].out_channels) == ("by_hand", 2)
    logits = model.eval()(torch.rand(2, *SIZE))
    assert logits.shape == (2, len(classes))
    assert logits.isfinite().all()


def test_a_pruned_head_input_gives_a_fresh_head_of_as_many(tmp_path):
    def net(width, outputs):
        return nn.Sequential(nn.Conv2d(3, width, 8), nn.Flatten(), nn.Linear(width, outputs))

    small = Classifier(net(4, 4), classes=CLASSES, input_size=SIZE, arch="a")
    small.pruned = "by_hand"
    save_checkpoint(tmp_path / "ckpt.pt", small, {})
    model = Classifier(net(16, 2), classes=("x", "y"), input_size=SIZE, arch="a")
    assert "new head" in initialise(model, str(tmp_path / "ckpt.pt"))
    assert (model.net[2].in_features, model.net[2].weight.shape) == (4, (2, 4))
    assert 0 < model.net[2].weight.abs().max() <= 0.5, "the initial bound of a layer with 4 inputs"
    assert torch.equal(model.net[0].weight, small.net[0].weight)
