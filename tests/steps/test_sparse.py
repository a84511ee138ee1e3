"""The step that trains sparse weights, against its formulas written out."""

import copy
import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from robustcls.core.errors import InputError
from robustcls.steps.sparse import erk, exchange, sparse_weights
from robustcls.training.loop import fit
from robustcls.training.rehearsal import rehearse
from tests.helpers.tiny_run import SMALL, first_batch, same

OPTIONS = {**SMALL, "epochs": 2, "adv": "fgsm", "lr": 0.05}
SHAPES = [(16, 1, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3), (10, 64)]


def by_bisection(shapes, density):
    """Return the number of weights per layer: proportional to the sum of the layer's dimensions, at most as many as it has."""
    sizes = [math.prod(shape) for shape in shapes]
    low, high = 0.0, float(sum(sizes))
    for _ in range(200):
        scale = (low + high) / 2
        kept = [min(size, scale * sum(shape)) for size, shape in zip(sizes, shapes, strict=True)]
        low, high = (low, scale) if sum(kept) > density * sum(sizes) else (scale, high)
    return kept


@pytest.mark.parametrize("density", [0.01, 0.1, 0.37, 0.9, 1.0])
def test_the_layers_share_the_weights_by_their_sides(density):
    counts, sizes = erk(SHAPES, density), [math.prod(shape) for shape in SHAPES]
    assert sum(counts) == math.floor(density * sum(sizes) + 0.5)
    assert counts == pytest.approx(by_bisection(SHAPES, density), abs=1)
    assert all(count <= size for count, size in zip(counts, sizes, strict=True))


def masks_of(run):
    return {name: run.state.state[name] for name in sparse_weights(run.state.model)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.9},
        {"swa": 0.3},
        {"optimizer": "adamw", "lr": 0.003},
        {"optimizer": "muon"},
        {"accumulate": 2, "objective": "trades", "adv": "pgd(steps=1)", "clip": 1.0},
    ],
    ids=["plain", "ema", "swa", "adamw", "muon", "parts"],
)
def test_weights_momenta_average_and_checkpoint_have_the_density_that_was_asked_for(options, make_run):
    run = make_run(**OPTIONS | options, step="sparse(density=0.2, every=2)", weight_decay=0.1)
    fit(run)
    weights, masks = sparse_weights(run.state.model), masks_of(run)
    total = sum(weight.numel() for weight in weights.values())
    assert len(weights) == 3
    assert sum(int(mask.sum()) for mask in masks.values()) == math.floor(0.2 * total + 0.5)
    saved = torch.load(run.folder / "last.pt", weights_only=True)
    for name, weight in weights.items():
        followers = run.state.followers(name)
        momenta = 2 if run.config.optimizer == "adamw" else 1
        assert len(followers) == momenta + (run.state.average is not None)
        for tensor in (weight, *followers, saved["state_dict"][name.removeprefix("net.")]):
            assert not tensor[~masks[name]].any()
            assert tensor[masks[name]].count_nonzero() > 0.9 * masks[name].sum()
        assert torch.equal(saved["steps"][0][name], masks[name])
    best = torch.load(run.folder / "ckpt.pt", weights_only=True)["state_dict"]
    left = sum(int(best[name.removeprefix("net.")].count_nonzero()) for name in weights)
    assert 0.19 < left / total <= 0.2001
    found = run.state.history[-1].parts["density"]  # measured on the weights during the epoch
    assert 0.19 < found <= 0.2001


def test_all_weights_are_the_plain_step_to_the_bit(make_run):
    once, full, few = (
        make_run(name, **OPTIONS, step=step)
        for name, step in {"once": "once", "full": "sparse(density=1.0)", "few": "sparse(density=0.5)"}.items()
    )
    for run in (once, full, few):
        fit(run)
    one, other, third = (torch.load(run.folder / "last.pt", weights_only=True) for run in (once, full, few))
    assert same(one["state_dict"], other["state_dict"])
    assert same(one["optimizer"], other["optimizer"])
    assert not same(one["state_dict"], third["state_dict"])


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_number_of_exchanged_weights_falls_with_a_cosine(share, make_run):
    run = make_run(**OPTIONS, step=f"sparse(density=0.2, every=2, share={share})")
    seen = []
    fit(run, lambda run: seen.append({name: mask.clone() for name, mask in masks_of(run).items()}))
    kept = {name: int(mask.sum()) for name, mask in seen[0].items()}
    for number, (one, other) in enumerate(itertools.pairwise(seen), 1):  # in 10 updates
        now = share * 0.5 * (1 + math.cos(math.pi * (number + 0.5) / len(seen))) if number % 2 == 0 else 0
        for name, mask in one.items():
            gone = min(int(now * kept[name]), mask.numel() - kept[name])
            assert (int((mask & ~other[name]).sum()), int((other[name] & ~mask).sum())) == (gone, gone)
    assert same(seen[0], seen[-1]) == (share == 0)


def test_the_smallest_weights_go_and_those_with_the_largest_gradients_come(make_run):
    run = make_run(**OPTIONS, step="sparse(density=0.5)", ema=0.9)
    x, y = first_batch(run)
    run.state.train_step(x, y)
    weights, name = sparse_weights(run.state.model), "net.3.weight"
    weight, before = weights[name], run.state.state[name].clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    values, gradient = weight.detach().clone(), weight.grad.clone()
    exchange(run.state, {name: weight}, {name: 70})
    after = run.state.state[name]
    gone, come = before & ~after, after & ~before
    assert int(gone.sum()) == int(come.sum()) == 70
    assert values.abs()[gone].max() <= values.abs()[before & after].min()
    assert gradient.abs()[come].min() >= gradient.abs()[~before & ~after].max()
    assert torch.equal(weight, torch.where(after & before, values, 0.0))
    for follower in run.state.followers(name):
        assert not follower[gone | come].any()
        assert follower[before & after].any()


def test_an_update_is_that_of_sgd_on_what_is_not_0(make_run):
    run = make_run(**OPTIONS, step="sparse(density=0.3)", schedule="constant", weight_decay=0.01)
    model = copy.deepcopy(run.state.model).train()
    x, y = first_batch(run)
    run.state.attack = lambda *_, **__: x
    for _ in range(2):
        run.state.step(run.state, x, y)
    masks = masks_of(run)
    momenta = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for name, mask in masks.items():
        size, (small, large) = model.get_parameter(name).detach().abs(), (~mask, mask)
        assert mask.all() or size[large].min() >= size[small].max()  # at first, the largest weights stay
        model.get_parameter(name).data.mul_(mask)
    for _ in range(2):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for name, p in model.named_parameters():
            g = p.grad * masks[name] if name in masks else p.grad
            g = g + 0.01 * p.detach() if name in masks else g
            momenta[name] = 0.9 * momenta[name] + g
            p.data -= 0.05 * (g + 0.9 * momenta[name])
    for name, p in model.named_parameters():
        torch.testing.assert_close(run.state.model.get_parameter(name), p, rtol=1e-4, atol=1e-6)


def test_a_rehearsal_leaves_no_mask(make_run):
    run = make_run(**OPTIONS, step="sparse(density=0.3)")
    before = copy.deepcopy(run.state.state_dict())
    rehearse(run)
    assert run.state.state == {}
    assert same(run.state.state_dict(), before)


@pytest.mark.parametrize(
    ("step", "options", "says"),
    [
        (
            "sparse(density=0.0)",
            {},
            "sparse(density=0.0, every=500, share=0.5): give density and share from 0 to 1, and 1 or more for every",
        ),
        ("sparse(density=1.5)", {}, "give density and share from 0 to 1"),
        ("sparse(every=0)", {}, "and 1 or more for every"),
        ("sparse(share=-1.0)", {}, "give density and share from 0 to 1"),
        ("sparse(density=0.0001)", {}, "would leave nothing of net.0.weight: give it a larger density"),
        ("sparse", {"freeze": "1"}, "needs all layers to be trained, and net.0 is not: leave out `tune` and `freeze`"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run_begins(step, options, says, make_run):
    run = make_run(**OPTIONS, step=step, **options)
    with pytest.raises(InputError) as caught:
        rehearse(run)
    assert says in str(caught.value)
