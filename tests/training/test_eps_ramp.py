"""A radius that grows during the run."""

import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.results.learning import first_rise
from robustcls.results.records import Epoch
from robustcls.training.config import TrainConfig, parse_ramp
from robustcls.training.loop import _warn
from tests.helpers.tiny_run import FLAT, first_batch, values_of

EPS = 0.1
RAMP = {**FLAT, "eps": EPS, "epochs": 10, "eps_ramp": "0.2-0.6"}


def at(run, share):
    """Return the state in the batch after this share of the run."""
    state = run.state
    batches = round(share * run.config.epochs * state.num_batches)
    state.epoch, state.batch = divmod(batches, state.num_batches)
    return state


def equal_after_an_update(*runs):
    """Train each of two runs on one batch, and return whether their weights are equal."""
    x, y = first_batch(runs[0])
    for run in runs:
        run.state.seed(3)
        run.state.train_mode()
        run.state.train_step(x, y)
        run.state.meter.seconds = 1.0
    return all(torch.equal(a, b) for a, b in zip(*(values_of(r.state.model).values() for r in runs), strict=True))


def test_radius_by_share(make_run):
    run = make_run(**RAMP, adv="fgsm")
    total = run.config.epochs * run.state.num_batches
    for share, expected in ((0, 0.0), (0.1, 0.0), (0.4, EPS / 2), (0.5, 0.75 * EPS), (0.6, EPS), (0.99, EPS)):
        assert at(run, share).threat.eps == pytest.approx(expected, abs=1.5 * EPS / total / 0.4), share
    assert run.threat.eps == EPS  # for validation and the checkpoint


@pytest.mark.parametrize(("adv", "reach"), [("fgsm", 1.0), ("pgd(steps=1, step_size=0.02, random_start=False)", 0.2)])
def test_the_attacks_step_shrinks_with_the_radius(adv, reach, make_run):
    run = make_run(**RAMP, adv=adv)
    x, y = first_batch(run)
    inside = x.clamp(0.3, 0.7)  # the box cuts nothing off
    for share in (0.1, 0.3, 0.5, 0.9):
        state = at(run, share)
        state.seed(1)
        moved = (state.attack(state.model, inside, y) - inside).abs().amax().item()
        assert moved == pytest.approx(reach * state.threat.eps, abs=1e-6), share


def test_before_it_grows_training_is_clean_training(make_run):
    """The weights are equal bit for bit, and robust accuracy on training images is not measured."""
    grown, clean = make_run(**RAMP, adv="pgd"), make_run(**{**RAMP, "eps_ramp": None}, adv="none", objective="standard")
    assert equal_after_an_update(grown, clean)
    assert grown.state.meter.means(grown.world)["train_robust"] is None
    state = at(grown, 0.7)
    state.meter.reset()
    state.train_step(*first_batch(grown))
    state.meter.seconds = 1.0
    assert state.meter.means(grown.world)["train_robust"] is not None


def test_without_it_the_threat_is_the_runs_own(make_run):
    run = make_run(**{**RAMP, "eps_ramp": None}, adv="fgsm")
    assert all(at(run, share).threat is run.threat for share in (0, 0.3, 0.9))


def test_steps_with_examples_of_their_own_follow_it(make_run):
    """Free training projects onto the ball of the current radius."""
    run = make_run(**RAMP, step="free(replays=2)")
    x, y = first_batch(run)
    for share in (0.1, 0.4, 0.9):
        state = at(run, share)
        state.state.clear()
        state.train_mode()
        eps = state.threat.eps
        state.train_step(x, y)
        assert state.state["delta"].abs().amax().item() == pytest.approx(eps, abs=1e-6)


@pytest.mark.parametrize("text", ["0.3", "0.3-0.1", "0.2-0.2", "a-b", "-0.1-0.3", "0.5-1.5", ""])
def test_what_is_no_part_of_a_run(text):
    with pytest.raises(InputError, match="two fractions of it, such as `eps_ramp=0.15-0.3`"):
        parse_ramp(text)


def test_it_needs_an_attack():
    with pytest.raises(InputError, match="grows the radius of an attack"):
        TrainConfig(eps_ramp="0.1-0.3", adv="none")


@pytest.mark.parametrize(
    ("ramp", "losses", "warned"),
    [
        ("0.2-0.6", [1.0, 0.5, 0.9, 1.2, 1.5, 1.8, 1.7, 1.6, 1.5, 1.4], []),  # rises with the radius
        ("0.2-0.6", [1.0, 0.5, 0.9, 1.2, 1.5, 1.8, 1.2, 1.6, 1.5, 1.4], [8]),  # also rises later
        (None, [1.0, 0.5, 0.9, 1.2, 1.5, 1.8, 1.7, 1.6, 1.5, 1.4], [3]),
    ],
)
def test_a_loss_that_rises_with_the_radius_is_no_warning(ramp, losses, warned, make_run):
    run = make_run(**{**RAMP, "eps_ramp": ramp}, adv="fgsm")
    run.state.num_batches, epochs = 100, []
    for number, loss in enumerate(losses, start=1):
        run.state.history.append(Epoch(number, 0.1, loss, None, None, None, None, None, 1.0, 1.0))
        epochs += [number] if "the training loss rose" in _warn(run) else []
    assert epochs == warned
    assert bool(first_rise(run.state.settled_epochs)) == bool(warned)  # for the end of the run


def test_training_may_have_a_radius_of_its_own(make_run):
    wide, own = (
        make_run("wide", **FLAT, eps="0.3", adv="fgsm"),
        make_run("own", **FLAT, eps=EPS, train_eps="0.3", adv="fgsm"),
    )
    assert (own.threat.eps, own.state.full_threat.eps) == (EPS, 0.3)
    assert equal_after_an_update(wide, own), "the weights are those of training at this radius"
    robust = [run.state.meter.means(run.world)["train_robust"] for run in (wide, own)]
    assert robust[0] is not None
    assert robust[1] is None, "it would not be comparable with robust accuracy in validation"


def test_the_radius_of_training_grows_too(make_run):
    run = make_run(**{**RAMP, "train_eps": "0.2"}, adv="fgsm")
    total = run.config.epochs * run.state.num_batches
    for share, expected in ((0.1, 0.0), (0.4, 0.1), (0.6, 0.2), (0.99, 0.2)):
        assert at(run, share).threat.eps == pytest.approx(expected, abs=0.3 / total / 0.4), share
    assert run.threat.eps == EPS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_eps": "0"}, "training without an attack"),
        ({"train_eps": "12"}, "eps"),
        ({"train_eps": "a"}, "is not a radius"),
        ({"train_eps": "0.1", "adv": "none"}, "this run has none"),
    ],
)
def test_a_wrong_radius_of_training_is_refused(options, said, make_run):
    with pytest.raises(InputError, match=said):
        make_run(**{**FLAT, "eps": EPS, "adv": "fgsm"} | options)
