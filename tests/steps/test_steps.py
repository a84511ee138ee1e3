"""Training steps that make the update themselves, each against the loop of its paper, written out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustcls.core.errors import InputError
from robustcls.steps.awp import ascended
from robustcls.training.loop import fit
from robustcls.training.rehearsal import rehearse
from tests.helpers.tiny_run import FLAT, brighter, first_batch, values_of


def test_free_is_the_papers_loop(make_run):
    run = make_run(step="free(replays=3)", schedule="constant", lr=0.05)
    model, optimizer = copy.deepcopy(run.state.model), None
    x, y = first_batch(run)
    optimizer = torch.optim.SGD(
        [{"params": group} for group in weights_and_rest(model)], lr=0.05, momentum=0.9, nesterov=True
    )
    optimizer.param_groups[0]["weight_decay"] = run.config.weight_decay
    model.train()
    delta, eps = torch.zeros_like(x), run.threat.eps
    for _ in range(2):  # two batches: the second starts with the perturbation of the first
        for _ in range(3):
            x_adv = (x + delta).clamp(0, 1).requires_grad_()
            optimizer.zero_grad()
            F.cross_entropy(model(x_adv), y).backward()
            optimizer.step()
            delta = (x_adv.detach() + eps * x_adv.grad.sign() - x).clamp(-eps, eps)
            delta = (x + delta).clamp(0, 1) - x
        run.state.step(run.state, x, y)
    assert torch.allclose(run.state.state["delta"], delta, atol=1e-6)
    for name, tensor in run.state.model.state_dict().items():
        assert torch.allclose(tensor.float(), model.state_dict()[name].float(), atol=1e-5), name


def weights_and_rest(model):
    decayed = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    known = {id(weight) for weight in decayed}
    return decayed, [p for p in model.parameters() if id(p) not in known]


def test_awp_updates_by_the_gradient_at_worse_weights(make_run):
    gamma = 0.05
    run = make_run(step=f"awp(gamma={gamma}, warmup=0.0)", schedule="constant", lr=0.05, weight_decay=0.0)
    model = copy.deepcopy(run.state.model).train()
    x, y = first_batch(run)
    x_adv = run.state.attack(run.state.model, x, y)
    run.state.attack = lambda *_, **__: x_adv
    run.state.step(run.state, x, y)
    once = copy.deepcopy(model)
    F.cross_entropy(once(x_adv), y).backward()
    worse = copy.deepcopy(model)
    with torch.no_grad():
        for p, q in zip(worse.parameters(), once.parameters(), strict=True):
            if p.ndim > 1:
                p.add_(gamma * p.norm() / q.grad.norm() * q.grad)
    assert F.cross_entropy(worse(x_adv), y) > F.cross_entropy(once(x_adv), y)
    worse.zero_grad()
    F.cross_entropy(copy_buffers(worse, model)(x_adv), y).backward()
    for (name, p), start, q in zip(
        run.state.model.named_parameters(), model.parameters(), worse.parameters(), strict=True
    ):
        assert torch.allclose(p, start - 0.05 * 1.9 * q.grad, atol=1e-5), name  # Nesterov's first step: 1 + momentum
    counts = {m.num_batches_tracked.item() for m in run.state.model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert counts == {1}  # the first pass does not update BatchNorm


def copy_buffers(target, source):
    for kept, latest in zip(target.buffers(), source.buffers(), strict=True):
        kept.data.copy_(latest)
    return target


def test_weights_come_back_after_the_ascent(make_run):
    run = make_run()
    x, y = first_batch(run)
    run.state.gradient(x, y, run.state.attack)
    before = values_of(run.state.model)
    with ascended(run.state.model, 0.1):
        moved = [name for name, p in run.state.model.named_parameters() if not torch.equal(p, before[name])]
        assert moved == [name for name, p in run.state.model.named_parameters() if p.ndim > 1]
        for name in moved:
            p = dict(run.state.model.named_parameters())[name]
            assert (p.detach() - before[name]).norm().item() == pytest.approx(
                0.1 * before[name].norm().item(), rel=1e-3
            )
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.state.model.state_dict().items())


def test_awp_waits_for_its_warmup(make_run):
    plain, warm = make_run("a"), make_run("b", step="awp(warmup=0.5)", epochs=2)
    states = []
    for run in (plain, warm):
        fit(run, lambda run: states.append((run.state.epoch, values_of(run.state.model))))
    half = len(states) // 2
    same = [
        all(torch.equal(a[name], b[name]) for name in a)
        for (_, a), (_, b) in zip(states[:half], states[half:], strict=True)
    ]
    assert same == [True] * (half // 2) + [False] * (half // 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step": "free", "objective": "standard"}, "free needs an objective that attacks"),
        ({"step": "free", "accumulate": 2}, "leave out `accumulate`"),
        ({"step": "free(replays=0)"}, "give 1 or more"),
        ({"step": "awp(gamma=-1.0)"}, "give a gamma"),
        ({"step": "awp(warmup=2.0)"}, "a warmup from 0 to 1"),
        ({"objective": "trades", "adv": "fgsm"}, "starts at the clean image"),
        ({"objective": "trades", "adv": "apgd_ce"}, "needs an inner attack that takes its loss"),
        ({"objective": "mart", "augment": "cutmix"}, "one label per image"),
        ({"adv": "apgd_ce", "augment": "mixup"}, "one label per image"),
        ({"adv": "pgd(early_stop=True)", "augment": "mixup"}, "one label per image"),
    ],
)
def test_what_cannot_go_together_is_refused_before_anything_is_written(options, words, make_run):
    run = make_run(**options)
    with pytest.raises(InputError, match=words):
        rehearse(run)
    assert not run.folder.exists()


def test_awp_with_parts_is_awp_on_the_whole_batch(make_run):
    states, calls = [], []
    for parts in (1, 4):
        run = make_run(f"in {parts}", **FLAT, step="awp(gamma=0.05, warmup=0.0)", accumulate=parts)
        run.state.attack = lambda model, x, y: calls.append(len(x)) or brighter(model, x, y)
        before = values_of(run.state.model)
        run.state.step(run.state, *first_batch(run))
        states.append(values_of(run.state.model))
    assert calls == [32, 8, 8, 8, 8]  # each part is attacked once, not again at the worse weights
    for name in before:
        assert torch.allclose(states[0][name], states[1][name], atol=1e-6), name
    assert not torch.allclose(states[0]["net.1.weight"], before["net.1.weight"], atol=1e-4)
