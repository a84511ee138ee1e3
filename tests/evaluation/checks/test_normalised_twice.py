"""The check for a network that normalises its input twice."""

import pytest
import torch
from torch import nn

from robustcls.core.classifier import Classifier
from robustcls.core.gradients import frozen
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.checks.normalised_twice import look_at
from tests.helpers.eval_models import evaluated

MEAN, STD = (0.5, 0.4, 0.45), (0.2, 0.25, 0.22)
X = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


class Normalize(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class Inline(nn.Module):
    """A model that normalises in its own forward, as most code does."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net((x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1))


class Resized(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(nn.functional.interpolate(x, (16, 16), mode="bilinear"))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 2))


def batch_norm_first():
    return nn.Sequential(nn.BatchNorm2d(3), *convolutional())


def classifier(net, mean=MEAN, std=STD):
    return Classifier(net, classes="ab", input_size=(3, 12, 12), mean=mean, std=std)


ONCE = {
    "ours": lambda: classifier(convolutional()),
    "flat": lambda: classifier(flat()),
    "resized inside": lambda: classifier(Resized(convolutional())),
    "batch norm first": lambda: classifier(batch_norm_first()),
    "a module that normalises": lambda: Inline(convolutional()),
    "a module with a normaliser": lambda: nn.Sequential(Normalize(), convolutional()),
    "a module without": convolutional,
    "in front of pixels": lambda: classifier(nn.Sequential(Normalize(), convolutional()), (0.0,), (1.0,)),
    "minus one to one": lambda: classifier(convolutional(), (0.5,), (0.5,)),
}
TWICE = {
    "in its forward": lambda: classifier(Inline(convolutional())),
    "by a module": lambda: classifier(nn.Sequential(Normalize(), convolutional())),
    "flat": lambda: classifier(nn.Sequential(Normalize(), flat())),
    "resized inside": lambda: classifier(Resized(Inline(convolutional()))),
    "a module alone": lambda: nn.Sequential(Normalize(), Inline(convolutional())),
    "a module as a classifier": lambda: classifier(Inline(Inline(convolutional())), (0.0,), (1.0,)),
}


def check(make):
    with frozen(make()) as model:
        return look_at(model, X)


@pytest.mark.parametrize("name", ONCE)
def test_one_normalisation_passes(name):
    assert check(ONCE[name]).status == "pass"


@pytest.mark.parametrize("name", TWICE)
def test_two_normalisations_warn_and_say_what_to_do(name):
    found = check(TWICE[name])
    assert found.status == "warn"
    assert found.measured > 2.5
    assert "leave out --mean" in found.message or "remove one from" in found.message


def test_other_transforms_are_not_judged():
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = convolutional()

        def forward(self, x):
            return self.net((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))

    assert check(Standardised).status == "not_run"
    assert check(lambda: torch.jit.script(convolutional())).status in ("not_run", "pass")


@pytest.mark.parametrize(
    ("own", "other", "status", "words"),
    [
        ("one", "two", "warn", "of the surrogate: behind"),
        ("two", "one", "warn", "the network normalises again"),
        ("two", "two", "warn", "; of the surrogate: "),
        ("one", "one", "pass", "behind"),
        ("one", "untold", "pass", "of the surrogate: the preprocessing before"),
        ("untold", "two", "warn", "of the surrogate"),
    ],
)
def test_the_surrogate_is_looked_at_too(own, other, status, words):
    models = {
        "one": classifier(convolutional()),
        "two": classifier(Inline(convolutional())),
        "untold": nn.Sequential(nn.Softmax(3), convolutional()),
    }
    with torch.no_grad():
        found = look_at(models[own].eval(), X, models[other].eval())
    assert (found.status, words in found.message) == (status, True), found.message


def test_an_evaluation_by_transfer_looks_at_the_surrogate():
    surrogate = classifier(Inline(convolutional())).eval()
    y = torch.arange(len(X)) % 2
    model, threat = classifier(convolutional()).eval(), ThreatModel("linf", 0.01)
    found = evaluated(model, X, y, threat, ["noise"], surrogate=surrogate).evaluation
    check = next(check for check in found.checks if check.id == "normalised_twice")
    assert check.status == "warn"
    assert "of the surrogate" in check.message
