"""Certified training: the radius of the bounds grows during the run, and models that cannot be bounded are refused."""

import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.core.objective import Loss
from robustcls.results.records import Epoch
from robustcls.training.loop import fit
from robustcls.training.rehearsal import rehearse
from tests.helpers.tiny_run import SMALL, first_batch

IBP = {**SMALL, "objective": "ibp(alpha=0.5, warmup=0.2, ramp=0.5)", "adv": "fgsm", "eps": "0.05"}


def objective_with_state(model, x, y, attack, *, state):
    """An objective that records how much of the run is done."""
    logits = model(x)
    return Loss(torch.nn.functional.cross_entropy(logits, y), logits, parts={"done": torch.tensor(state.share_done)})


def test_an_objective_with_the_keyword_state_sees_how_much_of_the_run_is_done(make_run):
    run = make_run(**SMALL, objective="tests.training.test_ibp_in_runs:objective_with_state", adv="fgsm")
    fit(run)
    # The mean over the batches of an epoch is the middle of the epoch.
    assert [row.parts["done"] for row in run.state.history] == pytest.approx([0.25, 0.75], abs=1e-6)


def test_the_bounds_grow_with_the_run(make_run):
    run = make_run(**IBP)
    x, y = first_batch(run)
    run.state.attack = lambda model, x, y: x
    found = []
    for epoch, batch in ((0, 0), (1, 0), (1, 4)):
        run.state.epoch, run.state.batch = epoch, batch
        run.state.model.eval()
        loss = run.state.objective(run.state.model, x, y, run.state.attack)
        found.append(loss.parts["certified"].item())
        clean = loss.parts["attacked"].item()
    assert found[0] == pytest.approx(clean, abs=1e-5)  # the radius is 0
    assert clean < found[1] < found[2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arch": "vgg16(width=0.05, activation='silu')"}, r"SiLU\) cannot be bounded: it is not monotone"),
        ({"norm": "l1", "eps": "1.0"}, "take linf or l2"),
        ({"objective": "ibp(alpha=2.0)"}, "at most 1"),
        ({"augment": "mixup"}, "one label per image"),
    ],
)
def test_what_cannot_be_bounded_is_said_before_a_run_begins(options, said, make_run):
    with pytest.raises(InputError, match=said):
        rehearse(make_run(**{**IBP, **options}))


@pytest.mark.parametrize(("objective", "says"), [("ibp(alpha=0.5)", True), ("adversarial", False)])
def test_where_the_loss_is_no_number_ibp_says_what_helps_beside_the_learning_rate(objective, says, make_run):
    run = make_run(**IBP | {"objective": objective})
    run.state.step = lambda state, x, y: Loss(x.sum() * float("nan"), torch.zeros(len(y), 10))
    with pytest.raises(InputError, match=r"lower `lr` or give `clip=1`") as refused:
        fit(run)
    assert ("small networks such as cnn4, where a longer warmup or a smaller alpha" in str(refused.value)) == says


def test_losses_are_compared_once_the_bounds_have_their_full_radius(make_run):
    run = make_run(**{**IBP, "epochs": 10})
    run.state.history = [Epoch(n, 0.1, 1.0, None, None, None, None, None, 1.0, 1.0) for n in range(1, 11)]
    assert [one.epoch for one in run.state.settled_epochs] == [8, 9, 10]  # full radius after 0.2 + 0.5 of the run
    other = make_run(**{**IBP, "objective": "ibp(warmup=0.1, ramp=0)", "epochs": 10})
    other.state.history = run.state.history
    assert [one.epoch for one in other.state.settled_epochs] == list(range(2, 11))


def test_the_radius_of_bounds_does_not_follow_that_of_the_attack(make_run):
    """Both may grow, each during its own part of the run: while the attack has radius 0, the bounds have a larger one."""
    plain, ramped = make_run(**IBP), make_run(**IBP, eps_ramp="0.8-0.9")
    found = []
    for run in (plain, ramped):
        x, y = first_batch(run)
        run.state.epoch, run.state.batch = 1, 0
        run.state.model.eval()
        found.append(run.state.objective(run.state.model, x, y, lambda model, x, y: x).parts["certified"].item())
    assert ramped.state.threat.eps == 0
    assert found[0] == found[1]
