"""An ensemble averages the probabilities of its members, and is attacked as one model."""

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.wrapped import read_wrapped
from robustcls.data.sets.digits import digits
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.models.loading import build_model, read_model
from robustcls.models.wrappers.averaged import averaged, draws_of
from robustcls.models.wrappers.ensemble import ensemble
from robustcls.runtime.fused import Counted
from tests.helpers.eval_models import make_batch, make_net

THREAT = robustcls.ThreatModel("linf", 0.1)


class Linear(nn.Module):
    def __init__(self, seed, classes=(), outputs=4, scale=1.0):
        super().__init__()
        torch.manual_seed(seed)
        self.head = nn.Linear(3 * 64, outputs)
        self.scale = scale
        if classes:
            self.classes = classes

    def forward(self, x):
        return self.scale * self.head(x.flatten(1))


def mean(models, x):
    return torch.stack([one(x).softmax(1) for one in models]).mean(0)


@pytest.mark.parametrize("count", [2, 5])
def test_its_probabilities_and_their_gradient_are_the_mean(count):
    models, (x, y) = [Linear(seed, scale=3.0) for seed in range(count)], make_batch(6)
    whole = ensemble(*models)
    torch.testing.assert_close(whole(x).exp(), mean(models, x))
    torch.testing.assert_close(whole(x).softmax(1), mean(models, x))
    seen = x.clone().requires_grad_()
    loss = -mean(models, seen).gather(1, y[:, None]).log().sum()
    torch.testing.assert_close(input_gradient(whole, x, y), torch.autograd.grad(loss, seen)[0])
    logits = sum(one(x) for one in models) / count
    assert (whole(x).softmax(1) - logits.softmax(1)).abs().max() > 1e-3, "unlike the mean of logits"


def test_it_is_stable_where_probabilities_underflow():
    sure = [Linear(0, scale=1e4), Linear(1, scale=1e4)]
    x, y = make_batch(6)
    logits = ensemble(*sure)(x)
    exact = (
        torch.stack([one.double()(x.double()).log_softmax(1) for one in sure]).logsumexp(0) - torch.tensor(2.0).log()
    )
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, exact.float(), rtol=1e-5, atol=1e-3)
    assert input_gradient(ensemble(*(one.float() for one in sure)), x, y).isfinite().all()


def test_one_member_twice_is_that_member():
    net, (x, _) = make_net(), make_batch(6)
    torch.testing.assert_close(ensemble(net, net)(x), net(x).log_softmax(1))


def test_members_whose_classes_are_in_another_order_are_put_in_order():
    names, order = ("cat", "dog", "owl", "pig"), [2, 0, 3, 1]
    first = Linear(0, names)
    second = Linear(0, tuple(names[place] for place in order))
    with torch.no_grad():
        second.head.weight.copy_(first.head.weight[order])
        second.head.bias.copy_(first.head.bias[order])
    x, _ = make_batch(6)
    whole = ensemble(first, second)
    torch.testing.assert_close(whole(x), first(x).log_softmax(1))
    assert whole.classes == names
    assert "model 2 has the classes in another order" in whole.said[0]
    nameless = ensemble(Linear(3), first)
    assert (nameless.classes, nameless.orders) == (names, [None, None])
    assert "model 1 names no classes" in nameless.said[0]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([], "ensemble of 0"),
        ([Linear(0)], "needs two models or more"),
        ([Linear(0), "a.pt"], "wrapper around nothing"),
        ([Linear(0, ("a", "b", "c", "d")), Linear(0, ("a", "b", "c", "e"))], "model 2 knows 'e', unlike model 1"),
        ([Linear(0, ("a", "b", "c")), Linear(0, ("a", "b"))], "model 2 lacks 'c', unlike model 1"),
        ([Linear(0, ("a", "a", "c")), Linear(0, ("c", "a", "a"))], "model 2 has a name twice"),
    ],
)
def test_what_is_no_ensemble_is_refused(models, said):
    with pytest.raises(InputError, match=said):
        ensemble(*models)


def test_outputs_of_other_numbers_and_images_of_other_sizes_are_refused():
    x, _ = make_batch(2)
    with pytest.raises(InputError, match="model 2 of the ensemble gives 3 outputs, the first 4"):
        ensemble(Linear(0), Linear(0, outputs=3))(x)
    with pytest.raises(InputError, match=r"model 2 of the ensemble gives \(2, 1\)"):
        ensemble(Linear(0), Linear(0, outputs=1))(x)
    sizes = [build("vgg16(width=0.05)", classes="ab", input_size=size) for size in ((1, 8, 8), (3, 8, 8))]
    with pytest.raises(InputError, match=r"model 1 takes images of \(1, 8, 8\), model 2 of \(3, 8, 8\)"):
        ensemble(*sizes)


def test_random_members_are_random_and_passes_of_members_side_by_side_are_not_multiplied():
    net, (x, _) = make_net(), make_batch(4)
    whole = ensemble(averaged(net, draws=3), averaged(averaged(net, draws=2), draws=2))
    assert draws_of(whole) == 4
    assert draws_of(averaged(whole, draws=5)) == 20
    counted = Counted(whole)
    counted(x)
    assert counted.forwards == 4 * len(x)


def save(folder, name, seed, *, threat, split=0):
    torch.manual_seed(seed)
    model = build("vgg16(width=0.05)", classes=list("0123456789"), input_size=(1, 8, 8)).eval()
    save_checkpoint(folder / name, model, {"data": "digits(size=8)", "threat": threat, "seed": split})
    return model


def test_a_spec_builds_it_and_says_where_the_members_differ(tmp_path):
    linf = {"norm": "linf", "eps": "0.1"}
    models = [save(tmp_path, "a.pt", 0, threat=linf), save(tmp_path, "b.pt", 1, threat=linf, split=3)]
    shutil.copy(tmp_path / "a.pt", tmp_path / "c.pt")
    spec = f"ensemble({tmp_path}/a.pt, {tmp_path}/b.pt)"
    source = read_model(spec)
    assert (source.meta["threat"], source.spec, source.single) == (linf, f"{tmp_path}/a.pt", False)
    alone = read_model(f"{tmp_path}/a.pt")
    assert alone.single
    assert source.sha256 != alone.sha256
    assert source.sha256 != read_model(f"ensemble({tmp_path}/b.pt, {tmp_path}/a.pt)").sha256
    assert source.sha256 != read_model(f"ensemble({tmp_path}/a.pt, {tmp_path}/c.pt)").sha256
    loaded = build_model(source, arch=None, classes=(), input_size=(1, 8, 8))
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(loaded.model(x).exp(), mean(models, x))
    assert loaded.name == f"ensemble({tmp_path.name}/a.pt, {tmp_path.name}/b.pt)"
    one, other = (f"{tmp_path.name}/{name}.pt" for name in "ba")
    assert loaded.notes == [f"{loaded.name}: {one} was trained with another seed than {other}, which is followed"]
    assert read_wrapped(loaded.name).wrapper is not None
    assert tuple(loaded.classes) == tuple("0123456789")
    assert loaded.model.arch == "vgg16(width=0.05) + vgg16(width=0.05)"


class Seen(nn.Module):
    """Keeps every third column of the image, beginning with column `first`."""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def forward(self, x):
        seen = torch.zeros_like(x)
        seen[..., self.first :: 3] = 1
        return x * seen


@pytest.fixture(scope="module")
def trained():
    """Return three small networks trained on digits, each of which sees different pixels, and test images with labels."""
    x, y = digits("train", size=8).batch()
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(Seen(seed), nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        models.append(net.eval())
    images, labels = digits("test", size=8).batch()
    return models, images[:200], labels[:200]


def test_members_attacked_one_by_one_look_more_robust_than_the_ensemble_attacked_as_one(trained):
    models, x, y = trained
    whole = ensemble(*models)
    alone = torch.ones(len(y), dtype=torch.bool)
    for one in models:
        x_adv = robustcls.attack(one, x, y, THREAT, "pgd(steps=20)")
        alone &= whole(x_adv).argmax(1) == y
    together = whole(robustcls.attack(whole, x, y, THREAT, "pgd(steps=20)")).argmax(1) == y
    assert (whole(x).argmax(1) == y).float().mean() > 0.9
    assert alone.float().mean() > together.float().mean() + 0.05
    again = models[0]  # the control: with one member twice, both attacks agree
    same = ensemble(again, again)
    by_member = same(robustcls.attack(again, x, y, THREAT, "pgd(steps=20)")).argmax(1) == y
    by_whole = same(robustcls.attack(same, x, y, THREAT, "pgd(steps=20)")).argmax(1) == y
    assert abs(by_member.float().mean() - by_whole.float().mean()) <= 0.02
