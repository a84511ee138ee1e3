"""A model of groups of classes: attacks succeed only with a mistake between groups."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.data.sets.digits import digits
from robustcls.models.loading import LoadedModel, map_classes
from robustcls.models.wrappers.averaged import averaged
from robustcls.models.wrappers.coarse import coarse, groups_in
from robustcls.models.wrappers.ensemble import ensemble

THREAT = robustcls.ThreatModel("linf", 0.1)
ROUND = 'round = ["0", "6", "8", "9"]\nopen.curved = ["2", "3", "5"]\nopen.straight = ["1", "4", "7"]\n'


@pytest.fixture(scope="module")
def net():
    x, y = digits("train", size=8).batch()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    net.classes = tuple("0123456789")
    return net.eval()


@pytest.fixture(scope="module")
def batch():
    images, labels = digits("test", size=8).batch()
    return images[:200], labels[:200]


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree.toml").write_text(ROUND, encoding="utf-8")
    return str(tmp_path / "tree.toml")


@pytest.mark.parametrize(
    ("depth", "groups"), [(1, [[0, 6, 8, 9], [2, 3, 5, 1, 4, 7]]), (2, [[0, 6, 8, 9], [2, 3, 5], [1, 4, 7]])]
)
def test_a_groups_probability_is_the_sum_of_its_classes(depth, groups, net, batch, tree):
    model, (x, y) = coarse(net, tree=tree, depth=depth), batch
    sums = torch.stack([net(x).softmax(1)[:, group].sum(1) for group in groups], 1)
    torch.testing.assert_close(model(x).softmax(1), sums)
    target = model.group_of[y]
    assert all(int(label) in groups[int(group)] for label, group in zip(y, target, strict=True))
    seen = x.clone().requires_grad_()
    fine = net(seen).softmax(1)
    loss = -torch.stack([fine[:, group].sum(1) for group in groups], 1).gather(1, target[:, None]).log().sum()
    expected = torch.autograd.grad(loss, seen)[0]
    torch.testing.assert_close(input_gradient(model, x, target), expected, rtol=1e-3, atol=1e-4)


def test_it_says_what_it_is(net, tree):
    model = coarse(net, tree=tree)
    assert (model.classes, model.title) == (("round", "open"), f"coarse(Sequential, tree={tree})")
    assert coarse(net, tree=tree, depth=2).classes == ("round", "open/curved", "open/straight")
    assert next(iter(model.named_buffers()))[0] not in model.state_dict()


def coarse_accuracy(model, x, groups):
    return (model(x).argmax(1) == groups).float().mean().item()


def flattery(net, tree, x, y):
    """Return the coarse accuracy under a fine attack minus that under a coarse attack."""
    model = coarse(net, tree=tree)
    groups = model.group_of[y]
    by_fine = robustcls.attack(net, x, y, THREAT, "pgd(steps=20)")
    by_coarse = robustcls.attack(model, x, groups, THREAT, "pgd(steps=20)")
    return coarse_accuracy(model, by_fine, groups) - coarse_accuracy(model, by_coarse, groups)


def test_an_attack_on_classes_overestimates_the_accuracy_by_group(net, batch, tree, tmp_path):
    assert flattery(net, tree, *batch) > 0.05
    # This holds for any tree: with random groups of the same sizes, a fine attack also finds only some of the mistakes.
    generator = random.Random(0)
    found = []
    for number in range(5):
        names = list("0123456789")
        generator.shuffle(names)
        file = tmp_path / f"{number}.toml"
        file.write_text(f"a = {names[:4]}\nb = {names[4:]}\n".replace("'", '"'), encoding="utf-8")
        found.append(flattery(net, str(file), *batch))
    assert min(found) > 0
    file.write_text("\n".join(f'g{name} = ["{name}"]' for name in "0123456789"), encoding="utf-8")
    assert abs(flattery(net, str(file), *batch)) < 0.01, "groups of one class each are the same as classes"


def test_the_datas_classes_follow_into_the_groups(net, tree):
    turned = tuple("9876543210")
    for model in (
        coarse(net, tree=tree),
        averaged(coarse(net, tree=tree), draws=1),
        ensemble(*[coarse(net, tree=tree)] * 2),
    ):
        loaded = LoadedModel(model, "m", classes=model.classes)
        found = map_classes(loaded, turned, 2)
        assert found.outputs == (0, 0, 1, 0, 1, 1, 1, 1, 1, 0)
        assert (found.names, found.moves_labels) == (("round", "open"), True)
        assert "10 classes of the data in 2 groups" in found.rule
    by_group = map_classes(loaded, ("open", "round"), 2)
    assert by_group.outputs == (1, 0), "the classes of the data may be the groups"
    assert map_classes(loaded, ("3", "8"), 2).outputs == (1, 0), "the data may have only some of the classes"
    with pytest.raises(InputError, match="'ten' is none of the model's"):
        map_classes(loaded, ("3", "ten"), 2)


def test_a_model_without_names_gets_those_that_are_given(net, batch, tree, tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    digits = tuple("0123456789")
    model = robustcls.load(f"coarse(nets_of_mine:net, {tree})", classes=digits)
    assert (model.classes, model.fine) == (("round", "open"), digits)
    with pytest.raises(InputError, match="names of the model's classes"):
        robustcls.load(f"coarse(nets_of_mine:net, {tree})")
    whole = robustcls.load("ensemble(nets_of_mine:net, nets_of_mine:net)", classes=digits)
    assert whole.classes == digits
    assert whole(batch[0]).shape == (200, 10)


def test_groups_of_groups(net, tree, tmp_path):
    (tmp_path / "more.toml").write_text('bent = ["round", "open/curved"]\nnot = ["open/straight"]\n', encoding="utf-8")
    model = coarse(coarse(net, tree=tree, depth=2), tree=str(tmp_path / "more.toml"))
    assert groups_in(model) == {str(digit): int(digit in (1, 4, 7)) for digit in range(10)}
    assert groups_in(net) is None
    with pytest.raises(InputError, match="in different ways"):
        groups_in(nn.ModuleList([coarse(net, tree=tree), coarse(net, tree=tree, depth=2)]))


def test_what_has_no_groups_is_refused(net, tree, tmp_path):
    with pytest.raises(InputError, match="wrapper around nothing"):
        coarse("a.pt", tree=tree)
    with pytest.raises(InputError, match="depth=0"):
        coarse(net, tree=tree, depth=0)
    (tmp_path / "one.toml").write_text(f"all = {list('0123456789')}", encoding="utf-8")
    with pytest.raises(InputError, match="has one group, 'all', which tells no classes apart"):
        coarse(net, tree=str(tmp_path / "one.toml"))
    with pytest.raises(InputError, match="names of the model's classes"):
        coarse(nn.Flatten(), tree=tree)
    with pytest.raises(InputError, match=r"gives \(1, 64\), the tree has 10"):
        coarse(nn.Flatten(), tree=tree, classes=tuple("0123456789"))(torch.rand(1, 1, 8, 8))
