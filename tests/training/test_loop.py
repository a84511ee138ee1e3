"""The training loop: the loss falls, the attack leaves the model alone, the best epoch is kept, runs repeat bit for bit."""

import copy
import math

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.training.loop import fit
from robustcls.training.rehearsal import rehearse
from tests.helpers.tiny_run import SMALL, values_of


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("adv", ["none", "fgsm"])
def test_the_loss_falls_in_two_epochs(adv, make_run):
    run = make_run(adv=adv, arch="vgg16(width=0.15)", limit_train=1000, augment="none", eps="0.05", lr=0.05)
    losses = []

    def on_batch(run):
        losses.append(run.state.meter.sums["loss"].item())

    fit(run, on_batch)
    first, second = run.state.history
    assert len(losses) == 2 * run.state.num_batches == 2 * 31
    assert losses[0] / 32 == pytest.approx(math.log(10), rel=0.3)  # an untrained model guesses
    assert second.train_loss < first.train_loss - 0.3
    assert second.val_clean > 0.4
    assert second.val_clean >= second.val_robust
    assert (second.train_robust is None) == (adv == "none")


def five_steps(make_run, name, seed, rehearsed=False):
    run = make_run(name, seed=seed, ema=0.9, epochs=1)
    if rehearsed:
        rehearse(run)
    for number, (x, y) in enumerate(run.batches()):
        run.state.train_step(x, y)
        if number == 4:
            break
    assert run.state.batch == 5
    return {
        **values_of(run.state.model),
        **{f"ema.{key}": value for key, value in values_of(run.state.average.model).items()},
        **run.state.meter.sums,
    }


def test_five_steps_are_golden(make_run):
    first = five_steps(make_run, "a", seed=1)
    torch.manual_seed(99)
    torch.rand(7)
    assert equal(first, five_steps(make_run, "b", seed=1))
    assert not equal(first, five_steps(make_run, "c", seed=2))


def test_every_batch_of_every_epoch_draws_anew(make_run):
    run, draws = make_run(adv="none"), []
    fit(run, lambda run: draws.append(torch.rand(1, generator=run.state.generator).item()))
    assert len(set(draws)) == len(draws) == 10


def test_a_rehearsal_changes_nothing(make_run):
    assert equal(five_steps(make_run, "a", seed=1), five_steps(make_run, "b", seed=1, rehearsed=True))


def test_the_attack_sees_current_weights_and_leaves_the_model_alone(make_run):
    run = make_run()
    inner, seen = run.state.inner.function, []

    def spy(model, x, y, threat, **options):
        own = copy.deepcopy(run.state.model).eval()
        with torch.no_grad():
            assert torch.allclose(model(x), own(x), atol=1e-4)
            seen.append(own(x))
        before, modes = values_of(run.state.model), [module.training for module in run.state.model.modules()]
        x_adv = inner(model, x, y, threat, **options)
        assert equal(before, values_of(run.state.model))
        assert modes == [module.training for module in run.state.model.modules()]
        assert all(parameter.requires_grad for parameter in run.state.model.parameters())
        assert 0 < threat.distance(x_adv, x).max() <= 0.15 + 1e-6
        return x_adv

    run.state.inner.function = spy
    run.state.model.train()
    probe = next(iter(run.batches()))
    for _ in range(3):
        run.state.step(run.state, *probe)
    assert not torch.allclose(seen[0], seen[2], atol=1e-3)  # the weights changed between the attacks
    counts = [
        module.num_batches_tracked.item() for module in run.state.model.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    assert set(counts) == {3}  # one pass in training mode per step, by the objective


@pytest.mark.parametrize(
    ("adv", "best"),
    [("fgsm", 3), ("none", 4)],  # robust accuracy decides, clean breaks ties; without an attack, the reverse
)
def test_the_checkpoint_is_the_best_epoch(adv, best, make_run, monkeypatch):
    run = make_run(adv=adv, epochs=4)
    measured = zip([0.2, 0.5, 0.5, 0.4], [0.9, 0.3, 0.4, 0.9], strict=True)
    scripted = [{"train_clean": 0.1, "val_robust": r, "val_clean": c, "val_fgsm": 0.1} for r, c in measured]
    monkeypatch.setattr(run, "validate", lambda count: scripted[run.state.epoch])
    weights = []
    fit(run, on_epoch=lambda row: weights.append(values_of(run.state.model)))
    assert run.state.best_epoch == best
    checkpoint = robustcls.load(run.folder / "ckpt.pt")
    assert equal(values_of(checkpoint), weights[best - 1])
    meta = torch.load(run.folder / "ckpt.pt", weights_only=True)["meta"]
    assert meta["epoch"] == best
    assert meta["threat"] == {"norm": "linf", "eps": 0.15}
    assert "40 validation images" in meta["selected_by"]
    assert ("pgd(steps=2)" in meta["selected_by"]) == (adv != "none")


def test_the_average_is_what_is_judged_and_saved(make_run):
    run = make_run(ema=0.9, epochs=1)
    fit(run)
    saved = values_of(robustcls.load(run.folder / "ckpt.pt"))
    assert equal(saved, values_of(run.state.average.model))
    assert not equal(saved, values_of(run.state.model))
    assert run.state.eval_model is run.state.average.model


def poison(state, x, y):
    """A step whose loss is NaN in the third batch of the second epoch."""
    from robustcls.steps.once import once

    loss = once(state, x, y)
    loss.total = loss.total * (float("nan") if (state.epoch, state.batch) == (1, 2) else 1.0)
    return loss


def test_a_loss_that_is_nan_stops_and_keeps_the_best(make_run):
    run = make_run(adv="fgsm")
    run.state.step = poison
    weights = []
    with pytest.raises(InputError, match=r"not a finite number in batch 3 of 5 of epoch 2: lower `lr`.*last\.pt holds"):
        fit(run, on_epoch=lambda row: weights.append(values_of(run.state.model)))
    assert equal(values_of(robustcls.load(run.folder / "ckpt.pt")), weights[0])
    assert len((run.folder / "history.jsonl").read_text().splitlines()) == 1


def test_a_loss_that_is_nan_in_the_first_epoch_leaves_no_checkpoint(make_run):
    run = make_run(adv="none", lr=1e30)
    with pytest.raises(InputError, match=r"in batch \d of 5 of epoch 1: lower `lr` or give `clip=1`$"):
        fit(run)
    assert not (run.folder / "ckpt.pt").exists()


def test_epochs_that_are_not_validated_are_neither_selected_nor_watched(make_run):
    """Epochs that are validated give the same results as in a run where all epochs are validated."""
    rare, every = (make_run(name, **SMALL, adv="fgsm", epochs=5, val_every=n) for name, n in (("a", 2), ("b", None)))
    saved = []
    fit(rare, on_epoch=lambda row: saved.append((rare.folder / "ckpt.pt").exists()))
    fit(every)
    assert saved == [False, True, True, True, True]
    names = ("train_clean", "val_clean", "val_robust", "val_fgsm", "below_best", "robust_gap", "val_seconds")
    for one, other in zip(rare.state.history, every.state.history, strict=True):
        assert one.train_loss == other.train_loss
        for name in names[:4]:
            assert getattr(one, name) == (None if one.epoch in (1, 3) else getattr(other, name))
        assert all((getattr(one, name) is None) == (one.epoch in (1, 3)) for name in names)
    assert rare.state.best_epoch in (2, 4, 5)
    scores = {row.epoch: (row.val_robust, row.val_clean) for row in rare.state.history if row.val_robust is not None}
    assert scores[rare.state.best_epoch] == max(scores.values())


def test_patience_counts_from_one_validation_to_the_next(make_run, monkeypatch):
    run = make_run(**SMALL, adv="fgsm", epochs=12, val_every=3, patience=1)
    scripted = {3: 0.3, 6: 0.4, 9: 0.2}
    fields = {"train_clean": 0.5, "val_clean": 0.5, "val_fgsm": 0.4}
    monkeypatch.setattr(run, "validate", lambda _: {**fields, "val_robust": scripted[run.state.epoch + 1]})
    fit(run)
    assert (run.state.best_epoch, len(run.state.history)) == (6, 9)


def test_a_rollback_goes_to_an_epoch_that_was_validated(make_run, monkeypatch):
    run = make_run(**SMALL, adv="fgsm", epochs=6, val_every=2, on_collapse="rollback")
    fields, told = {"train_clean": 0.9, "val_clean": 0.9}, iter([(0.5, 0.6), (0.0, 0.9), (0.5, 0.6), (0.5, 0.6)])
    monkeypatch.setattr(
        run, "validate", lambda _: {**fields, **dict(zip(("val_robust", "val_fgsm"), next(told), strict=True))}
    )
    fit(run)
    assert [row.epoch for row in run.state.history] == [1, 2, 3, 4, 3, 4, 5, 6]
    assert "back to epoch 2" in run.state.history[3].event
