"""Small models and hostile attacks for the tests of evaluation."""

import json
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.gradients import input_gradient
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits
from robustcls.data.sets.digits import digits
from robustcls.evaluation.engine import Engine
from robustcls.evaluation.evaluate import evaluate_subject
from robustcls.evaluation.examples import Examples
from robustcls.evaluation.plan import add_measures, make_plan
from robustcls.evaluation.run_measures import run_measures
from robustcls.evaluation.subject import Subject, make_subject
from robustcls.results.records import Evaluation

LINF = ThreatModel("linf", 0.02)
ATTACKS = ["pgd(steps=3)", "apgd_ce(steps=5)", "apgd_t(steps=3)"]


class Net(nn.Module):
    """A network in which train and eval mode differ, by BatchNorm and dropout; a buffer counts passes in either mode."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(8 * 36, num_classes)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.head(self.body(x).flatten(1))


def make_net(num_classes: int = 4) -> Net:
    torch.manual_seed(0)
    net = Net(num_classes)
    net.body[1].running_mean.uniform_(-0.5, 0.5)
    return net.eval()


def make_batch(n: int = 60, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Return images, and labels for which the model of make_net is right on three quarters of them."""
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    x[:, 0, 0, 0] = 1  # at the edge of the box: see outside_the_box
    with torch.no_grad():
        y = make_net(num_classes)(x).argmax(1)
    y[::4] = (y[::4] + 1) % num_classes
    return x, y


def others(model, x, y):
    """Return images far outside the ball that the model gives another class, so that each of them fools it."""
    with torch.no_grad():
        predicted = model(x).argmax(1)
        best = torch.rand(256, *x.shape[1:], generator=torch.Generator().manual_seed(2)).to(x.device)
        labels = model(best).argmax(1)
    return torch.stack([best[(labels != label).nonzero()[0, 0]] for label in predicted])


def far(model, x, y, threat, *, generator=None):
    return others(model, x, y)


def step(model, x, y, size):
    x = x.detach().requires_grad_()
    grad = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]
    return (x.detach() + size * grad.sign()).clamp(0, 1)


def beside(model, x, y, threat, *, generator=None):
    """Take a step of twice the radius."""
    return step(model, x, y, 2 * threat.eps)


def outside_the_box(model, x, y, threat, *, generator=None):
    """Take a step of the radius, but move one pixel, which is white, out of [0, 1]."""
    x_adv = step(model, x, y, threat.eps)
    x_adv[:, 0, 0, 0] = 1 + threat.eps / 2
    return x_adv


def not_a_number(model, x, y, threat, *, generator=None):
    return torch.full_like(x, float("nan"))


def infinite(model, x, y, threat, *, generator=None):
    return torch.full_like(x, float("inf"))


def overwriting(model, x, y, threat, *, generator=None):
    """Overwrite the clean images with the result, so that the distance seems to be 0."""
    x_adv = others(model, x, y)
    x.copy_(x_adv)
    return x_adv


HARMLESS = ("far", "beside", "outside_the_box", "not_a_number", "infinite", "overwriting")


def raises(model, x, y, threat, *, kind: str = "RuntimeError", generator=None):
    raise {"RuntimeError": RuntimeError, "KeyError": KeyError, "TypeError": TypeError, "Assertion": AssertionError}[
        kind
    ]("two\nlines")


def returns_none(model, x, y, threat, *, generator=None):
    return None


def returns_one(model, x, y, threat, *, generator=None):
    return x[:1]


def returns_twice(model, x, y, threat, *, generator=None):
    return torch.cat([x, x])


def double(model, x, y, threat, *, generator=None):
    return step(model, x, y, threat.eps).double()


def train_digits(spec: str = "none", epochs: int = 6) -> nn.Module:
    """Return a small network trained on 8x8 digits, under the attack `spec` at linf 0.15."""
    net = _two_convolutions()
    net.load_state_dict(_trained_on_digits(spec, epochs))
    torch.manual_seed(0)  # the random numbers of a test must not depend on which test trained the network
    return net.eval()


def _two_convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


@cache
def _trained_on_digits(spec: str, epochs: int) -> dict[str, Tensor]:
    """Return the weights of train_digits, trained once per process."""
    torch.manual_seed(0)
    net = _two_convolutions()
    x, y = digits("train", size=8).batch()
    attack = None if spec == "none" else plugins.load("attack", spec)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            seen = x[rows] if attack is None else attack(net, x[rows], y[rows], ThreatModel("linf", 0.15))
            optimizer.zero_grad()
            F.cross_entropy(net(seen), y[rows]).backward()
            optimizer.step()
    return net.state_dict()


class Masked(nn.Module):
    """A network whose input and output are changed by functions."""

    def __init__(self, net: nn.Module, before=lambda x: x, after=lambda logits: logits) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class Bump(nn.Module):
    """A model of two classes, where the margin of the second is a function of the image's mean, or of its first pixel."""

    def __init__(self, lead, pixel: bool = False) -> None:
        super().__init__()
        self.lead, self.pixel = lead, pixel

    def forward(self, x: Tensor) -> Tensor:
        lead = self.lead(x[:, 0, 0, 0] if self.pixel else x.flatten(1).mean(1))
        return torch.stack([-lead / 2, lead / 2], 1)


def idle(model, x, y, threat, *, generator=None):
    """Return the images unchanged."""
    return x.clone()


def downhill(model, x, y, threat, *, generator=None):
    """Take a step in the wrong direction."""
    return step(model, x, y, -threat.eps)


met = []  # what some of these attacks received, call by call


def stopping(model, x, y, threat, *, early_stop: bool = True, generator=None):
    """Record the value of `early_stop`."""
    met.append(early_stop)
    return x


@traits(universal=True)
def universal(model, x, y, threat, *, generator=None):
    met.append(len(x))
    return x


@traits(minimum_norm=True)
def nearest(model, x, y, threat, *, generator=None):
    """Go along the gradient as far as needed, but give up on samples with label 0."""
    grad = input_gradient(model, x, y).sign()
    x_adv = x.clone()
    for size in torch.linspace(0.2, 0.001, 40):
        moved = (x + size * grad).clamp(0, 1)
        with torch.no_grad():
            wrong = (model(moved).argmax(1) != y) & (y != 0)
        x_adv[wrong] = moved[wrong]
    return x_adv


@traits(unrestricted=True, gradients=False)
def anywhere(model, x, y, threat, *, generator=None):
    return 1 - x


@dataclass
class Evaluated:
    """A subject with its evaluation."""

    subject: Subject
    evaluation: Evaluation

    def on(self, model: nn.Module) -> tuple[Subject, Evaluation]:
        """Return subject and evaluation for a measure, with another model on the same samples."""
        return replace(self.subject, model=model), self.evaluation

    @property
    def x(self) -> Tensor:
        return self.subject.x

    @property
    def y(self) -> Tensor:
        return self.subject.y

    @property
    def examples(self) -> Examples:
        return self.evaluation.examples


RUNNING = ("journal", "world", "progress", "budget", "command")


def evaluated(model, x, y, threat, attacks, *, index=None, surrogate=None, **options) -> Evaluated:
    """Evaluate the model. options: of the plan, or of the run (RUNNING)."""
    running = {name: options.pop(name) for name in RUNNING if name in options}
    subject = make_subject(model, x, y, threat, index=index, surrogate=surrogate)
    return Evaluated(subject, evaluate_subject(subject, make_plan(subject, attacks, **options), **running))


def completed(judged: Evaluated, model, config, methods=(), **running):
    """Return the evaluation with the measures that `config`, the options of a report, selects; batches of 20."""
    subject, evaluation = judged.on(model)
    plan = add_measures(make_plan(subject, ["fgsm"]), subject, replace(config, method=tuple(methods)))
    evaluation.not_run |= plan.not_run
    return run_measures(subject, plan, evaluation, 20, **running)


def make_engine(model, x, y, threat=LINF, *, index=None, surrogate=None, **options) -> Engine:
    return Engine(make_subject(model, x, y, threat, index=index, surrogate=surrogate), **options)


def judged_batch(model=None, attacks=ATTACKS, threat=LINF, **options):
    """Evaluate the samples of make_batch under three attacks, by default in batches of 16, in fp32."""
    x, y = make_batch()
    options = {"precision": "fp32", "batch_size": 16} | options
    return evaluated(model or make_net(), x, y, threat, attacks, **options)


def without_times(judgement: Evaluated) -> dict:
    """Return the JSON of the evaluation without times."""
    whole = json.loads(judgement.evaluation.to_json())
    whole["provenance"] = None
    for attack in whole["attacks"]:
        del attack["seconds"]
    return whole


def train_linear(images, labels):
    """Return a linear model of 8x8 digits, trained on these images for 60 steps; the same each time."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net
