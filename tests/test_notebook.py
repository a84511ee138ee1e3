"""The story of a notebook user, from their own loader and model to a report. It reads, and runs, from top to bottom."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robustcls

THREAT = "linf:0.15"


# My data and my model, as my own training loop left it: in train mode, with gradients and optimizer state.


class MyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


@pytest.fixture(scope="module")
def loader():
    images, labels = robustcls.load_data("digits(size=8)", split="test", n=60)
    return DataLoader(TensorDataset(images, labels), batch_size=25)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = MyNet()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    images, labels = robustcls.load_data("digits(size=8)", split="train", n=600)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.train()


@pytest.fixture(autouse=True)
def left_as_it_was(model):
    """Check after each test that the model is unchanged, bit for bit."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    yield
    assert all(module.training for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))


# An attack of my own is a function; with other options, a functools.partial of it.


def towards_grey(model, x, y, threat, *, steps=5, level=0.5, generator=None):
    """Move images towards uniform grey, as far as the ball allows."""
    x_adv = x
    for _ in range(steps):
        x_adv = threat.project(x_adv + (level - x_adv) / steps, x)
    return x_adv


towards_black = functools.partial(towards_grey, level=0.0)


@pytest.fixture(scope="module")
def result(model, loader):
    return robustcls.evaluate(
        model, loader, threat=THREAT, attacks=[towards_grey, towards_black, "pgd(steps=10)"], each_alone=True
    )


def test_how_robust_is_it(result):
    assert 0 <= result.robust.accuracy < result.clean.accuracy
    low, high = result.robust.ci95
    assert low <= result.robust.accuracy <= high
    assert result.clean.total == 60
    mine, mine_too, pgd = result.attacks
    assert "towards_grey" in mine.name
    assert mine.name != mine_too.name
    assert pgd.alone.accuracy <= mine.alone.accuracy, "each attack met every sample, so that they can be compared"


def test_the_adversarial_images_are_mine_to_look_at(model, result, loader):
    examples = result.examples
    images = torch.cat([x for x, _ in loader])
    labels = torch.cat([y for _, y in loader])
    assert torch.equal(examples.x, images)
    assert examples.x_adv.shape == images.shape
    assert (examples.x_adv - images).abs().max() <= 0.15 + 1e-6
    assert torch.equal(examples.distance, (examples.x_adv - images).abs().flatten(1).amax(1))
    model.eval()
    with torch.no_grad():
        predicted = model(examples.x_adv).argmax(1)
    model.train()
    assert (predicted[examples.success] != labels[examples.success]).all()
    assert (predicted[examples.robust] == labels[examples.robust]).all()
    assert examples.robust.sum().item() == result.robust.correct
    assert {name for name in examples.broken_by if name} <= {attack.name for attack in result.attacks}


def test_one_attack_alone_and_one_class_as_its_target(model, loader):
    images, labels = next(iter(loader))
    x_adv = robustcls.attack(model, images, labels, THREAT, towards_black)
    assert (x_adv <= images).all()
    assert (x_adv < images).any()
    x_adv = robustcls.attack(model, images, labels, "linf:0.4", "pgd(steps=20)", target=3)
    model.eval()
    with torch.no_grad():
        share = (model(x_adv).argmax(1) == 3).float().mean()
    model.train()
    assert share > 0.5


def test_what_did_it_look_at(model, result, loader):
    images, labels = next(iter(loader))
    maps = robustcls.explain(model, images, target=labels, method="integrated_gradients")
    assert maps.shape == images.shape
    mine = robustcls.explain(model, images, labels, lambda model, x, target: x * 0 + 1)
    assert torch.equal(mine, torch.ones_like(images))


def test_a_report_with_what_i_ask_for(model, loader, tmp_path):
    result = robustcls.evaluate(
        model, loader, threat=THREAT, attacks=[towards_grey, "fgsm"], name="my net",
        eps_grid=[0, 0.1, 0.2], checks="all", examples=2, maps_n=4, method="saliency",
        intended_use="a notebook", license="MIT",
    )  # fmt: skip
    result.save(tmp_path / "evaluation.json")
    page = robustcls.report(result, tmp_path / "report.html", title="My net")
    text = page.read_text(encoding="utf-8")
    for shown in ("My net", "my net", "towards_grey", "a notebook"):
        assert shown in text
    assert [point.eps for point in result.curve] == [0, 0.1, 0.15, 0.2]
    assert result.explanations.n <= 4
    again = robustcls.Evaluation.load(tmp_path / "evaluation.json")
    assert again.robust == result.robust


def test_and_trained_to_be_robust(model, loader, tmp_path):
    run = robustcls.train(
        data=loader, arch=model, adv="pgd(steps=2)", eps=0.15, epochs=2, val_n=20, out=tmp_path / "run"
    )
    assert len(run.history) == 2
    assert (run.folder / "ckpt.pt").exists()
    after = robustcls.evaluate(run.model, loader, threat=THREAT, attacks=["fgsm"])
    assert after.clean.total == 60
