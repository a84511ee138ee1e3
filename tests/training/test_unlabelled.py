"""Training on images without labels: their part of the loss, and resuming."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import UNLABELLED, cross_entropy, labelled_mean
from robustcls.core.objective import Loss
from robustcls.data.splits import load_left_out, load_training_data
from robustcls.data.unlabelled import load_unlabelled
from robustcls.runtime.world import World
from robustcls.training.checkpoint import read_last, restore_state
from robustcls.training.config import TrainConfig
from robustcls.training.inner_attack import self_labelled
from robustcls.training.loop import fit
from robustcls.training.meter import Meter
from robustcls.training.run import Run
from tests.helpers.tiny_run import FLAT, SMALL, TINY, CutError, brighter, cut_at, first_batch, same, values_of

OPTIONS = {**TINY, **SMALL, "limit_train": 60, "unlabelled": "rest", "adv": "pgd(steps=1)", "objective": "trades"}


@pytest.fixture(scope="module")
def images():
    """Return the training, validation and unlabelled images of OPTIONS."""
    train, val = load_training_data(TINY["data"], limit_train=60)
    size = train.pixels.shape[1:]
    return train, val, load_unlabelled("rest", data=TINY["data"], classes=train.classes, size=size, limit_train=60)


@pytest.fixture
def make(tmp_path, images):
    def make(name="run", *, last=None, others=images[2], **options):
        config = TrainConfig(**{**OPTIONS, **options})
        return Run(config, tmp_path / name, *images[:2], last=last, unlabelled=others if config.unlabelled else None)

    return make


# Losses


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(6, 1, 2, 2, generator=generator)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(3, 4, generator=generator))
    return net, x, torch.tensor([0, -100, 2, -100, -100, 1])


def test_cross_entropy_ignores_what_has_no_label(batch):
    net, x, y = batch
    for smoothing in (0.0, 0.3):
        losses = cross_entropy(net(x), y, label_smoothing=smoothing)
        assert (losses[y == UNLABELLED] == 0).all()
        assert (losses[y >= 0] > 0).all()


def test_the_mean_is_over_labelled_images(batch):
    net, x, y = batch
    known = y >= 0
    losses = cross_entropy(net(x), y)
    assert labelled_mean(losses, y).item() == pytest.approx(F.cross_entropy(net(x)[known], y[known]).item(), rel=1e-6)
    assert labelled_mean(losses, y).item() != pytest.approx(losses.mean().item(), rel=0.1)


def test_without_any_label_it_is_nothing(batch):
    net, x, y = batch
    none = torch.full_like(y, UNLABELLED)
    mean = labelled_mean(cross_entropy(net(x), none), none)
    mean.backward()
    assert mean.item() == 0
    assert all((p.grad == 0).all() for p in net.parameters())


def test_where_all_are_labelled_it_is_the_mean_bit_for_bit():
    generator = torch.Generator().manual_seed(1)
    for count in (3, 7, 48, 127):
        logits = torch.randn(count, 5, generator=generator, requires_grad=True)
        y = torch.arange(count) % 5
        one, other = labelled_mean(cross_entropy(logits, y), y), cross_entropy(logits, y).mean()
        assert torch.equal(one, other)
        assert torch.equal(*(torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (one, other)))


def test_trades_of_unlabelled_images_is_the_divergence_alone(batch):
    """By hand, UAT is the mean of CE(f(x), y) over labelled images, plus beta times the mean of KL(f(x) || f(x_adv)) over all
    images."""
    net, x, y = batch
    x_adv = (x + 0.1).clamp(0, 1)
    total = plugins.load("objective", "trades(beta=2.0)")(net, x, y, lambda *_, **__: x_adv).total
    p, q = (net(images).softmax(1).tolist() for images in (x, x_adv))
    entropy = [-math.log(p[i][label]) for i, label in enumerate(y.tolist()) if label >= 0]
    divergence = [sum(a * math.log(a / b) for a, b in zip(*pair, strict=True)) for pair in zip(p, q, strict=True)]
    assert (len(entropy), len(divergence)) == (3, 6)
    assert total.item() == pytest.approx(sum(entropy) / 3 + 2 * sum(divergence) / 6, abs=1e-6)


def test_alp_of_unlabelled_images_is_the_pairing_alone(batch):
    net, x, y = batch
    x_adv, known = (x + 0.1).clamp(0, 1), y >= 0
    total = plugins.load("objective", "alp(weight=2.0)")(net, x, y, lambda *_, **__: x_adv).total
    entropies = [F.cross_entropy(net(images)[known], y[known]) for images in (x, x_adv)]
    by_hand = sum(entropies) / 2 + 2 * (net(x) - net(x_adv)).square().mean()
    assert total.item() == pytest.approx(by_hand.item(), abs=1e-6)


@pytest.mark.parametrize("name", plugins.names("objective"))
def test_an_objective_says_whether_it_learns_from_them(name):
    options = {**OPTIONS, "objective": name, "adv": "none" if name == "standard" else "fgsm"}
    if name in ("trades", "alp"):
        assert TrainConfig(**options).without_labels
    else:
        with pytest.raises(InputError, match=f"objective {name} learns nothing from images without labels"):
            TrainConfig(**options)
        assert not TrainConfig(**options, pseudo_labels="labels.npz").without_labels


# The attack


def test_unlabelled_images_are_attacked_away_from_the_models_own_class(batch):
    net, x, y = batch
    found = self_labelled(net, x, y)
    assert torch.equal(found[y >= 0], y[y >= 0])
    assert torch.equal(found[y < 0], net(x).argmax(1)[y < 0])
    soft = F.one_hot(y.clamp_min(0), 3).float()
    assert self_labelled(net, x, soft) is soft


@pytest.mark.parametrize("objective", ["trades", "alp"])
def test_the_inner_attack_moves_unlabelled_images(objective, make):
    """With the label -100, the gradient of cross-entropy would be 0, and its sign would move nothing."""
    run = make(objective=objective, adv="fgsm(random_start=False)" if objective == "alp" else "pgd(steps=1)")
    x, y = first_batch(run)
    moved = []

    def attack(*given, **options):
        moved.append(run.state.attack(*given, **options))
        return moved[-1]

    run.state.objective(run.state.model, x, y, attack)
    distance = (moved[0] - x).abs().amax((1, 2, 3))
    assert (y == UNLABELLED).sum() == len(y) / 2
    assert (distance[y == UNLABELLED] > 0.01).all()


# The meter


def test_train_accuracy_counts_labelled_images_alone():
    meter = Meter(torch.device("cpu"))
    logits = torch.eye(4)
    meter.add(Loss(torch.tensor(2.0), logits, seen="adversarial"), torch.tensor([0, -100, 1, -100]), 0)
    meter.seconds = 2.0
    measured = meter.means(World())
    assert measured["train_robust"] == 0.5  # one of two labelled images is right
    assert measured["train_loss"] == 2.0
    assert measured["images_per_second"] == 2.0  # of all four images
    again = Meter(torch.device("cpu"))
    again.load_state_dict(meter.state_dict())
    assert again.means(World()) == measured


def test_the_meter_of_an_earlier_version_goes_on():
    meter = Meter(torch.device("cpu"))
    sums = {"loss": 8.0, "right": 3.0, "seen": 4.0}
    meter.load_state_dict({"sums": sums, "parts": {}, "seconds": 1.0, "attacked": True})
    assert meter.means(World())["train_robust"] == 0.75


# Runs


def test_rest_is_what_training_and_validation_leave(images):
    train, val, rest = images
    positions = [set(each.index.tolist()) for each in (train, val, rest)]
    whole, _ = load_training_data(TINY["data"])
    assert sum(map(len, positions)) == len(set.union(*positions)) == len(whole) + len(val)
    assert set(rest.labels.tolist()) == {UNLABELLED}
    true = load_left_out(TINY["data"], limit_train=60)
    assert torch.equal(true.pixels, rest.pixels)
    assert len(true.labels.unique()) == 10


def test_an_epoch_is_both_sources_and_each_batch_has_its_share(make, images):
    run = make(unlabelled_share=0.75)
    total = len(images[0]) + len(images[2])
    assert run.state.num_batches == total // 32
    batches = list(run.batches())
    assert len(batches) == total // 32
    assert all((y == UNLABELLED).sum() == 24 for _, y in batches)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["trades", "alp"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_was_cut_off_ends_bit_equal(objective, accumulate, make):
    options = {"objective": objective, "accumulate": accumulate, "epochs": 2, "ema": 0.8, "save_every": 2}
    straight = make("straight", **options)
    fit(straight)
    run = make("cut", **options)
    with pytest.raises(CutError):
        fit(run, cut_at(1, 5))
    config, content = read_last(run.folder)
    assert (config.unlabelled, config.unlabelled_share) == ("rest", 0.5)
    torch.manual_seed(7)
    again = make("cut", **vars(config))
    restore_state(again, content)
    assert (again.state.epoch, again.state.batch) == (1, 4)
    fit(again)
    for name in ("ckpt.pt", "last.pt"):
        one, other = (torch.load(run.folder / name, weights_only=True) for run in (straight, again))
        for key in one.keys() - {"meta"}:
            assert same(one[key], other[key]), f"{name}: {key}"


def test_a_run_goes_on_with_no_other_unlabelled_images(make, images):
    run = make(epochs=1)
    fit(run)
    _, content = read_last(run.folder)
    with pytest.raises(InputError, match="not those that"):
        restore_state(make(others=images[2].take(torch.arange(200))), content)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(make):
    """Each part has the same number of labels, so the mean over the parts is the mean over the batch."""
    x, y = first_batch(make(**FLAT, accumulate=4))
    assert {int((part == UNLABELLED).sum()) for part in y.chunk(4)} == {4}
    gradients = []
    for accumulate in (1, 4):
        run = make(**FLAT, accumulate=accumulate)
        run.state.gradient(x, y, brighter)
        gradients.append([p.grad.clone() for p in run.state.model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_mixed_labels_are_refused_without_labels(make):
    with pytest.raises(InputError, match=r"`augment=crop_flip\+mixup` mixes labels, and some images have none"):
        make(augment="crop_flip+mixup")


@pytest.mark.parametrize("step", ["once", "awp(warmup=0.0)", "free(replays=2)"])
def test_every_step_trains_on_them(step, make):
    run = make(step=step, epochs=1, adv=None if step.startswith("free") else "pgd(steps=1)")
    before = values_of(run.state.model)
    loss = run.state.train_step(*first_batch(run))
    assert loss.total.isfinite()
    assert any(not torch.equal(before[name], value) for name, value in values_of(run.state.model).items())


def test_swa_and_its_statistics(make):
    run = make(swa=0.4, epochs=2)
    fit(run)
    assert run.state.average.updates


def test_unlabelled_images_change_what_is_learned(make):
    """This is the negative control of the tests above: without unlabelled images, the run ends with other weights."""
    ends = []
    for options in ({}, {"unlabelled": None}):
        run = make(str(options), epochs=1, **options)
        fit(run)
        ends.append(values_of(run.state.model))
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
