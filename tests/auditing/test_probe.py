"""Linear probes equal scikit-learn on the features; networks without a head at their end are refused."""

from dataclasses import replace

import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from torch import nn

from robustcls.auditing.audit import audit_data
from robustcls.auditing.confident import find_label_errors
from robustcls.auditing.config import AuditConfig
from robustcls.auditing.folds import divide, probabilities_of
from robustcls.auditing.probe import PENALTIES, credible, load_pretrained, probe_folds
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build, save_checkpoint

HERE = "tests.auditing.test_probe"


class Net(nn.Module):
    """Random features of grey images of 8x8, and a head."""

    def __init__(self, channels=1, classes=7):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, 48), nn.ReLU())
        self.head = nn.Linear(48, classes)

    def forward(self, x):
        return self.head(self.body(x))


class Convolution(nn.Module):
    """A network of colour images that does not say so, except by its first layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(24, 7)

    def forward(self, x):
        return self.head(self.body(x))


class Other(Net):
    """A network that does something unusual."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        if self.kind == "writes":
            x -= 0.5
        h = self.body(x)
        if self.kind == "random":
            h = nn.functional.dropout(h, 0.5)
        if self.kind == "nan":
            h = h / (x.sum((1, 2, 3)) > 1e9)[:, None]
        logits = self.head(h)
        return {"tuple": (logits, h), "softmax": logits.softmax(1), "features": h}.get(self.kind, logits)


def net():
    return Net()


def colour():
    return Classifier(Net(3), classes=[str(i) for i in range(7)], input_size=(3, 8, 8))


def convolution():
    return Convolution()


def writes():
    return Other("writes")


def random():
    return Other("random")


def nan():
    return Other("nan")


def with_tuple():
    return Other("tuple")


def softmax():
    return Other("softmax")


def headless():
    return Other("features")


def half():
    return Net().double()


def large():
    """Return a network with a constant feature of 1000, and others of small deviation around 1000."""
    net = Net()
    with torch.no_grad():
        net.body[1].weight[:8] *= 1e-2
        net.body[1].bias[:8] = 1000
        net.body[1].weight[0] = 0
    return net


def shuffled():
    torch.manual_seed(0)
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 7))


def no_head():
    return nn.Sequential(nn.Flatten(), nn.Hardswish())


def logistic(x, y, penalty):
    """Return the minimiser of the mean log loss plus penalty / 2 times the squared norm."""
    return LogisticRegression(C=1 / (penalty * len(x)), max_iter=2000).fit(x, y)


def probed(images, fold, config):
    return probe_folds(images, fold, config, load_pretrained(config, images).features)


def options(spec, **more):
    return AuditConfig(
        data="digits(size=8)",
        features=f"{HERE}:{spec}",
        attack="none",
        minimum="none",
        device="cpu",
        quiet=True,
        **more,
    )


def test_the_folds_equal_scikit_learn_on_the_features(digits):
    images = digits.take(torch.arange(600))
    fold = divide(images.labels, 3, 0)
    found, penalty = probed(images, fold, options("net", folds=3))
    with torch.no_grad():
        x = Net().body(images.batch()[0]).numpy().astype(numpy.float64)
    x = (x - x.mean(0)) / numpy.where(x.std(0, ddof=1) > 0, x.std(0, ddof=1), 1)
    y, each = images.labels.numpy(), fold.numpy()
    losses = {}
    for one in PENALTIES:
        p = logistic(x[each != 0], y[each != 0], one).predict_proba(x[each == 0])
        losses[one] = -numpy.log(p[numpy.arange(len(p)), y[each == 0]]).mean()
    assert penalty == min(losses, key=losses.get)
    first = torch.zeros(600, 10)
    for number in range(3):
        fitted = logistic(x[each != number], y[each != number], penalty)
        first[fold == number] = torch.tensor(fitted.predict_proba(x[each == number])).float()
    doubted = find_label_errors(first, images.labels).issue.numpy()
    assert 0 < doubted.sum() < 60
    assert (found.probabilities - first).abs().max() > 0.1
    for number in range(3):
        rows = (each != number) & ~doubted
        wanted = torch.tensor(logistic(x[rows], y[rows], penalty).predict_proba(x[each == number])).float()
        assert torch.allclose(found.probabilities[fold == number], wanted, atol=3e-2)  # a doubted image more or less
        # The model that attacks use computes the same from pixels.
        own = probabilities_of(found.models[number], images.take((fold == number).nonzero().squeeze(1)))
        assert torch.allclose(own, found.probabilities[fold == number], atol=1e-4)


def test_a_class_that_is_mostly_doubted_keeps_its_images():
    labels = torch.tensor([0] * 10 + [1] * 10)
    probabilities = torch.tensor([[0.9, 0.1]]).repeat(20, 1)
    probabilities[16:] = torch.tensor([0.05, 0.95])  # six of the ten images of class 1 look like class 0
    assert find_label_errors(probabilities, labels).issue.sum() == 6
    assert credible(probabilities, labels).all()
    probabilities[14:] = torch.tensor([0.05, 0.95])  # four of ten
    assert (~credible(probabilities, labels)).nonzero().flatten().tolist() == [10, 11, 12, 13]


def test_two_classes_and_a_class_of_one_fold(digits):
    rows = (digits.labels < 2).nonzero().squeeze(1)
    pair = replace(digits.take(rows), classes=("zero", "one"))
    found, _ = probed(pair, divide(pair.labels, 2, 0), options("net", folds=2))
    assert (found.probabilities.argmax(1) == pair.labels).float().mean() > 0.98
    three = replace(pair, classes=("zero", "one", "two"))
    found, _ = probed(three, divide(three.labels, 2, 0), options("net", folds=2))
    assert found.probabilities[:, 2].max() == 0


@pytest.mark.parametrize(("spec", "net"), [("colour", lambda: Net(3)), ("convolution", Convolution)])
def test_grey_images_are_repeated_for_a_network_of_colour_images(spec, net, digits):
    features = load_pretrained(options(spec), digits).features
    x = digits.batch(torch.arange(5))[0]
    assert torch.equal(features(x), net().body(x.expand(-1, 3, -1, -1)))


def test_the_network_that_is_given_stays_as_it_is(digits, monkeypatch):
    given = Net()
    monkeypatch.setattr(f"{HERE}.net", given)
    load_pretrained(options("net"), digits).features(digits.batch(torch.arange(3))[0])
    assert given.head.out_features == 7
    assert not given.head._forward_hooks


@pytest.mark.parametrize("spec", ["with_tuple", "softmax", "half", "shuffled"])
def test_whatever_comes_before_or_after_the_layers_features_are_the_input_of_the_head(spec, digits):
    features = load_pretrained(options(spec), digits).features
    x = digits.batch(torch.arange(5))[0]
    wanted = shuffled()[:-1](x) if spec == "shuffled" else Net().body(x)
    assert torch.allclose(features(x), wanted, atol=1e-5)


def test_a_network_that_writes_to_its_input_leaves_the_images_as_they_are(digits):
    features, x = load_pretrained(options("writes"), digits).features, digits.batch(torch.arange(5))[0]
    before = x.clone()
    assert torch.allclose(features(x), Net().body(before - 0.5))
    assert torch.equal(x, before)


def test_the_attacked_models_are_those_that_predict_also_where_features_are_nearly_constant(digits):
    images = digits.take(torch.arange(300))
    fold = divide(images.labels, 2, 0)
    found, _ = probed(images, fold, options("large", folds=2))
    for number in range(2):
        own = probabilities_of(found.models[number], images.take((fold == number).nonzero().squeeze(1)))
        assert torch.allclose(own, found.probabilities[fold == number], atol=1e-3)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("random", "gives other features for the same image each time"),
        ("headless", "gives 48 values, and its last linear layer, head, 7: give a network that ends with a head"),
        ("no_head", "no linear layer or 1x1 convolution"),
        ("absent", "absent"),
    ],
)
def test_networks_that_do_not_end_with_a_head_are_refused(spec, said, digits):
    with pytest.raises(InputError, match=said):
        load_pretrained(options(spec), digits)


def test_features_that_are_no_numbers_are_refused(digits):
    with pytest.raises(InputError, match="not finite for 1257 of 1257 images"):
        probed(digits, divide(digits.labels, 2, 0), options("nan"))


def test_a_network_for_images_of_another_size_is_refused(digits):
    larger = replace(digits, pixels=digits.pixels.repeat(1, 1, 2, 2))
    with pytest.raises(InputError, match="cannot take images of 1x16x16"):
        load_pretrained(options("net"), larger)


def test_a_checkpoint_of_the_audited_data_is_refused_however_the_data_is_spelt(digits, tmp_path, monkeypatch):
    model = build("vgg11(width=0.05)", classes=digits.classes, input_size=(1, 8, 8))
    config = replace(options("net"), features=str(tmp_path / "ckpt.pt"))
    for data in ("digits(size=8)", "digits", None):
        save_checkpoint(tmp_path / "ckpt.pt", model, {"config": {"data": data}})
        for audited in ("digits(size=8)", "digits()", None):
            with pytest.raises(InputError, match="was trained on the labels of digits"):
                load_pretrained(replace(config, data=audited), digits)
    save_checkpoint(tmp_path / "ckpt.pt", model, {"config": {"data": "fashion_mnist"}})
    assert load_pretrained(config, digits).sha256
    save_checkpoint(tmp_path / "ckpt.pt", model, {"config": {"data": "python"}})
    load_pretrained(replace(config, data="python"), digits, given=True)  # it may have been trained on other arrays
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    save_checkpoint(tmp_path / "ckpt.pt", model, {"config": {"data": "folder:photos"}})
    spellings = ["photos", "./photos/", f"{tmp_path}/photos", "link"]
    spellings += ["photos(size=8, grey=True)", "photos(grey=True,size=8)", "link(size=8)"]
    for trained in ("folder:photos", "folder:photos(size=8,grey=True)"):
        save_checkpoint(tmp_path / "ckpt.pt", model, {"config": {"data": trained}})
        for audited in spellings:
            with pytest.raises(InputError, match="was trained on the labels of folder"):
                load_pretrained(replace(config, data=f"folder:{audited}"), digits)
    assert load_pretrained(replace(config, data="folder:others(size=8)"), digits).sha256


def test_an_ensemble_is_refused(digits, tmp_path):
    model = build("vgg11(width=0.05)", classes=digits.classes, input_size=(1, 8, 8))
    for name in ("a.pt", "b.pt"):
        save_checkpoint(tmp_path / name, model, {})
    with pytest.raises(InputError, match="gives the output of several networks, which have no single head"):
        load_pretrained(replace(options("net"), features=f"ensemble({tmp_path / 'a.pt'}, {tmp_path / 'b.pt'})"), digits)


def test_an_exported_file_has_no_layers_to_take_features_from(digits, tmp_path):
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Flatten", ["x"], ["y"])
    shapes = [
        onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["N", 1, 8, 8]), ("y", ["N", 64]))
    ]
    graph = onnx.helper.make_graph([node], "flat", shapes[:1], shapes[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "m.onnx",
    )
    with pytest.raises(InputError, match=r"`features=.*m.onnx`: the model has no linear layer"):
        load_pretrained(replace(options("net"), features=str(tmp_path / "m.onnx")), digits)


def test_label_errors_are_found_and_attacks_run_on_the_probes(planted):
    images, wrong = planted
    config = replace(
        options("net"), attack="pgd(steps=3)", attack_n=40, minimum="fmn(steps=10)", minimum_n=20, eps="0.1"
    )
    found, folds = audit_data(config, images)
    ratio = find_label_errors(folds.probabilities, images.labels).ratio
    assert average_precision_score(wrong.numpy(), ratio.numpy()) > 0.8
    assert (found.features, found.arch, found.epochs) == (config.features, "", [])
    assert found.attacked == 40
    assert found.boundary
    assert found.penalty in PENALTIES
    assert "arch" not in found.provenance.config


def test_no_network_is_refused():
    with pytest.raises(InputError, match="`features` is empty"):
        replace(options("net"), features="")


@pytest.mark.parametrize("name", ["epochs", "recipe"])
def test_options_of_training_are_refused_beside_features(name):
    with pytest.raises(InputError, match=f"`{name}` is for training"):
        options("net", **{name: 3 if name == "epochs" else "recipe.toml"})
