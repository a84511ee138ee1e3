"""Muon, against singular vectors, PyTorch's own on a linear layer, and its update written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustcls.core.errors import InputError
from robustcls.training.checkpoint import read_last, restore_state
from robustcls.training.loop import fit
from robustcls.training.muon import COEFFICIENTS, Muon, orthogonalised
from tests.helpers.tiny_run import SMALL, CutError, brighter, cut_at, first_batch, named_gradients, same

SHAPES = [(8, 8), (16, 40), (40, 16), (16, 4, 3, 3), (64, 1, 3, 3), (6, 5, 1, 1)]
OPTIONS = {**SMALL, "optimizer": "muon", "lr": 0.05, "adv": "fgsm"}


def on_singular_values(matrix, iterations):
    """The polynomial applied to the singular values alone, in float64; times sqrt(rows / columns) of a tall one."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    s, (a, b, c) = s / s.norm(), COEFFICIENTS
    for _ in range(iterations):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh * max(1.0, len(matrix) / matrix[0].numel()) ** 0.5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("iterations", [3, 5])
def test_the_iterations_move_singular_values_alone(shape, iterations):
    update = torch.randn(shape)
    if len(shape) == 4:
        update = update.contiguous(memory_format=torch.channels_last)
    found = orthogonalised(update, iterations)
    assert found.shape == update.shape
    assert found.stride() == update.stride()
    assert torch.allclose(found.flatten(1).double(), on_singular_values(update.flatten(1), iterations), atol=1e-4)


@pytest.mark.parametrize(("iterations", "low", "high"), [(3, 0.5, 1.25), (5, 0.65, 1.25)])
@pytest.mark.parametrize("shape", [(16, 40), (64, 16, 3, 3), (48, 16)])
def test_singular_values_are_near_one(shape, iterations, low, high):
    found = orthogonalised(torch.randn(shape) * 1e-6, iterations).flatten(1)
    values = torch.linalg.svdvals(found) / max(1.0, len(found) / found.shape[1]) ** 0.5
    assert low < values.min() <= values.max() < high


def test_an_update_of_zeros_stays_one():
    assert torch.equal(orthogonalised(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_a_linear_layer_moves_as_with_the_muon_of_pytorch(shape):
    """Which computes in bfloat16, and whose momentum is an average: in another unit that the iterations divide out."""
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, shape[0] * shape[1]).view(shape)) for _ in range(2))
    how = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3}
    group = {"params": [ours], "weight_decay": 0.3, "lr": 0.1}
    one = Muon([group], lr=0.1, momentum=0.8, iterations=5, precision="bf16")
    other = torch.optim.Muon([theirs], nesterov=True, ns_coefficients=COEFFICIENTS, ns_steps=5, **how)
    for _ in range(4):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
        assert torch.allclose(ours, theirs, atol=0.01)
    assert (ours - torch.linspace(-1, 1, ours.numel()).view(shape)).abs().mean() > 0.02


def test_a_quadratic_is_solved_whatever_its_scales():
    """Curvatures from 1 to 1,000, for which plain gradient descent takes thousands of steps at any rate."""
    target, scales = torch.randn(8, 6), torch.logspace(0, 3, 8)[:, None]
    weight = nn.Parameter(torch.zeros(8, 6))
    optimizer = Muon([{"params": [weight]}], lr=0.1, momentum=0.6, iterations=5)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        weight.grad = None
        (0.5 * scales * (weight - target) ** 2).sum().backward()
        optimizer.step()
    assert torch.allclose(weight, target, atol=0.05)


def test_matrices_before_the_head_by_muon_and_the_rest_by_sgd(make_run):
    """Three updates of a run, written out: a = m a + g, then g + m a; decay beside it, of SGD inside the gradient."""
    lr, decay, momentum = 0.05, 0.3, 0.8
    run = make_run(**OPTIONS, weight_decay=decay, momentum=momentum, schedule="constant")
    x, y = first_batch(run)
    run.state.attack = brighter
    values = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
    sums = {name: torch.zeros_like(p) for name, p in values.items()}
    for _ in range(3):
        run.state.step(run.state, x, y)
        for name, gradient in named_gradients(run.state.model).items():
            matrix = name in ("net.0.weight", "net.3.weight")
            if values[name].ndim > 1 and not matrix:
                gradient = gradient + decay * values[name]
            sums[name] = momentum * sums[name] + gradient
            update = gradient + momentum * sums[name]
            if matrix:
                values[name] *= 1 - lr * decay
                update = on_singular_values(update.flatten(1), 3).view_as(update).float()
            values[name] -= lr * update
    for name, p in run.state.model.named_parameters():
        assert torch.allclose(p, values[name], atol=1e-4), name


@pytest.mark.parametrize(
    "options",
    [
        {"step": "awp(warmup=0.0)"},
        {"step": "sparse(density=0.3, every=2)", "ema": 0.8},
        {"clip": 0.5, "accumulate": 2, "swa": 0.3},
        {"tune": "lora(rank=2)"},
        {"precision": "bf16"},
    ],
    ids=["awp", "sparse", "parts", "lora", "bf16"],
)
def test_a_run_that_was_cut_off_ends_bit_equal(options, make_run):
    if "tune" in options:
        source = make_run("source", **OPTIONS | {"epochs": 1})
        fit(source)
        options = {**options, "init": str(source.folder / "ckpt.pt")}
    options = {**OPTIONS, "epochs": 2, "save_every": 2, **options}
    straight = make_run("straight", **options)
    fit(straight)
    run = make_run("cut", **options)
    with pytest.raises(CutError):
        fit(run, cut_at(1, 3))
    config, content = read_last(run.folder)
    again = make_run("cut", last=content, **vars(config))
    restore_state(again, content)
    assert (again.state.epoch, again.state.batch) == (1, 2)
    fit(again)
    one, other = (torch.load(run.folder / "last.pt", weights_only=True) for run in (straight, again))
    for key in one.keys() - {"meta"}:
        assert same(one[key], other[key]), key


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_falls(precision):
    """And a scaler's overflow, whose update is left out, changes nothing."""
    x, target = torch.randn(64, 1, 6, 6), torch.randn(64, 4)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.Flatten(), nn.Linear(128, 4))
    groups = [
        {"params": [model[0].weight], "orthogonal": True},
        {"params": [*model[2].parameters()], "orthogonal": False},
    ]
    optimizer = Muon(groups, lr=0.02, precision=precision)
    scaler, losses = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=1000), []
    for number in range(40):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        scaler.scale(loss).backward()
        if number == 20:
            model[0].weight.grad[0, 0, 0, 0] = torch.inf
            before = model[0].weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        if number == 20:
            assert torch.equal(before, model[0].weight)
    assert losses[-1] < 0.7 * losses[0]


def test_without_a_matrix_to_train_it_is_refused(make_run):
    with pytest.raises(InputError, match='none of which is trained: give `optimizer="sgd"`'):
        make_run(**OPTIONS, freeze="backbone")
