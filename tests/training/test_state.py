"""One update: accumulated gradients, clipping, label smoothing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.tiny_run import FLAT, SMALL, brighter, first_batch, named_gradients


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts, make_run):
    run = make_run(**FLAT, accumulate=parts)
    whole = copy.deepcopy(run.state.model)
    x, y = first_batch(run)
    seen = []
    loss = run.state.gradient(x, y, lambda model, x, y: seen.append(len(x)) or brighter(model, x, y))
    assert seen == [32 // parts] * parts
    logits = whole(brighter(None, x, y))
    expected = F.cross_entropy(logits, y)
    expected.backward()
    for name, gradient in named_gradients(whole).items():
        assert torch.allclose(run.state.model.get_parameter(name).grad, gradient, atol=1e-6), name
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(loss.logits, logits, atol=1e-6)


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_clipping_is_that_of_torch(clip, make_run):
    run = make_run(**SMALL, clip=clip, schedule="constant", weight_decay=0.0, momentum=0.0)
    model = copy.deepcopy(run.state.model).train()
    x, y = first_batch(run)
    run.state.attack = brighter
    run.state.step(run.state, x, y)
    F.cross_entropy(model(brighter(None, x, y)), y).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert 0.01 < norm < 1e6
    moved = torch.stack(
        [(p - q).norm() for p, q in zip(run.state.model.parameters(), model.parameters(), strict=True)]
    ).norm()
    assert moved.item() == pytest.approx(0.1 * min(norm, clip), rel=1e-3)  # a step of plain SGD with lr 0.1
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for (name, p), q in zip(run.state.model.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(p, q - 0.1 * q.grad, atol=1e-6), name


@pytest.mark.parametrize("objective", ["standard", "adversarial", "adversarial(mix=0.25)", "trades(beta=0.0)"])
def test_label_smoothing_of_a_spec(objective, make_run):
    name, _, options = objective.rstrip(")").partition("(")
    options = f"{options}, label_smoothing=0.2" if options else "label_smoothing=0.2"
    run = make_run(**FLAT, objective=f"{name}({options})", adv="none" if name == "standard" else "pgd")
    x, y = first_batch(run)

    def smoothed(images):
        logs = run.state.model(images).log_softmax(1)
        return -(0.8 * logs.gather(1, y[:, None]).squeeze(1) + 0.2 * logs.mean(1)).mean()

    clean, attacked = smoothed(x).item(), smoothed(brighter(None, x, y)).item()
    mixed = 0.25 * clean + 0.75 * attacked if "mix" in objective else attacked
    expected = clean if name in ("standard", "trades") else mixed
    assert run.state.gradient(x, y, brighter).total.item() == pytest.approx(expected, abs=1e-5)
    assert abs(clean - attacked) > 1e-3
