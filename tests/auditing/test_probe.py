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
from robustcls.auditing.probe import load_features, probe_folds
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


class Doubled(Net):
    """The head is followed by something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def net():
    return Net()


def colour():
    return Classifier(Net(3), classes=[str(i) for i in range(7)], input_size=(3, 8, 8))


def convolution():
    return Convolution()


def doubled():
    return Doubled()


def no_head():
    return nn.Sequential(nn.Flatten(), nn.Hardswish())


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
    found = probe_folds(images, fold, options("net", folds=3))
    with torch.no_grad():
        x = Net().body(images.batch()[0]).numpy().astype(numpy.float64)
    x = (x - x.mean(0)) / numpy.maximum(x.std(0, ddof=1), 1e-6)
    y, each = images.labels.numpy(), fold.numpy()
    losses = {}
    for c in (1e-4, 1e-3, 1e-2, 1e-1):
        p = LogisticRegression(C=c, max_iter=2000).fit(x[each != 0], y[each != 0]).predict_proba(x[each == 0])
        losses[c] = -numpy.log(p[numpy.arange(len(p)), y[each == 0]]).mean()
    best = min(losses, key=losses.get)
    for number in range(3):
        fitted = LogisticRegression(C=best, max_iter=2000).fit(x[each != number], y[each != number])
        wanted = torch.tensor(fitted.predict_proba(x[each == number])).float()
        assert torch.allclose(found.probabilities[fold == number], wanted, atol=2e-3)
        # The model that attacks use computes the same from pixels.
        own = probabilities_of(found.models[number], images.take((fold == number).nonzero().squeeze(1)))
        assert torch.allclose(own, found.probabilities[fold == number], atol=1e-4)


def test_two_classes_and_a_class_of_one_fold(digits):
    rows = (digits.labels < 2).nonzero().squeeze(1)
    pair = replace(digits.take(rows), classes=("zero", "one"))
    found = probe_folds(pair, divide(pair.labels, 2, 0), options("net", folds=2))
    assert (found.probabilities.argmax(1) == pair.labels).float().mean() > 0.98
    three = replace(pair, classes=("zero", "one", "two"))
    found = probe_folds(three, divide(three.labels, 2, 0), options("net", folds=2))
    assert found.probabilities[:, 2].max() == 0


@pytest.mark.parametrize(("spec", "net"), [("colour", lambda: Net(3)), ("convolution", Convolution)])
def test_grey_images_are_repeated_for_a_network_of_colour_images(spec, net, digits):
    features = load_features(options(spec), digits)
    x = digits.batch(torch.arange(5))[0]
    assert torch.equal(features(x), net().body(x.expand(-1, 3, -1, -1)))


def test_the_network_that_is_given_stays_as_it_is(digits, monkeypatch):
    given = Net()
    monkeypatch.setattr(f"{HERE}.net", given)
    load_features(options("net"), digits)
    assert isinstance(given.head, nn.Linear)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("doubled", "does not end with its last layer, head: give a network that does"),
        ("no_head", "no linear layer or 1x1 convolution"),
        ("absent", "absent"),
    ],
)
def test_networks_that_do_not_end_with_a_head_are_refused(spec, said, digits):
    with pytest.raises(InputError, match=said):
        load_features(options(spec), digits)


def test_a_network_for_images_of_another_size_is_refused(digits):
    larger = replace(digits, pixels=digits.pixels.repeat(1, 1, 2, 2))
    with pytest.raises(InputError, match="cannot take images of 1x16x16"):
        load_features(options("net"), larger)


def test_a_checkpoint_of_the_audited_data_is_refused(digits, tmp_path):
    model = build("vgg11(width=0.05)", classes=digits.classes, input_size=(1, 8, 8))
    for data, refused in (("digits(size=8)", True), ("fashion_mnist", False)):
        save_checkpoint(tmp_path / "ckpt.pt", model, {"config": {"data": data}})
        config = replace(options("net"), features=str(tmp_path / "ckpt.pt"))
        if refused:
            with pytest.raises(InputError, match="was trained on the labels of digits"):
                load_features(config, digits)
        else:
            load_features(config, digits)


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


@pytest.mark.parametrize("name", ["epochs", "recipe"])
def test_options_of_training_are_refused_beside_features(name):
    with pytest.raises(InputError, match=f"`{name}` is for training"):
        options("net", **{name: 3 if name == "epochs" else "recipe.toml"})
