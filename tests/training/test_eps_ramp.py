"""A radius that grows during the run."""

import pytest
import torch

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import predict_labels
from robustcls.data.splits import choose
from robustcls.results.learning import first_rise
from robustcls.results.records import Epoch
from robustcls.training.config import TrainConfig, parse_ramp
from robustcls.training.loop import _warn, fit
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
        (None, [1.0, 0.5, 0.9, 1.2, 1.5, 1.8, 1.7, 1.6, 1.5, 1.4], [4]),
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


def test_no_robustness_before_the_full_radius_is_no_collapse_and_no_warning(make_run):
    """Epochs 1 to 4 of 8 begin before the full radius, and half of the others is over after epoch 6."""
    ramped = make_run("ramped", **FLAT, adv="fgsm", epochs=8, eps_ramp="0.25-0.5")
    never = {"train_clean": 0.9, "val_clean": 0.9, "val_robust": 0.0, "val_fgsm": 0.3}
    start = {"train_clean": 0.1, "val_clean": 0.1, "val_robust": 0.1, "val_fgsm": 0.1}
    ramped.validate = lambda _: start if not ramped.state.history else never
    fit(ramped)
    assert [one.growing for one in ramped.state.history] == [True] * 4 + [False] * 4
    assert [one.event for one in ramped.state.history] == [""] * 8
    assert ["no robustness" in one.warning for one in ramped.state.history] == [False] * 5 + [True, False, True]
    plain = make_run("plain", **FLAT, adv="fgsm", epochs=8)
    plain.validate = lambda _: start if not plain.state.history else never
    fit(plain)
    assert "catastrophic overfitting in epoch 2" in plain.state.stopped


def test_without_a_radius_there_is_nothing_to_grow_to(make_run):
    with pytest.raises(InputError, match="no radius to grow to"):
        make_run(**FLAT, adv="fgsm", eps="0", eps_ramp="0.2-0.5")


@pytest.mark.parametrize("text", ["12", "abc", "-1", "1e9/1"])
def test_a_bad_training_radius_is_named(text, make_run):
    with pytest.raises(InputError, match="`train_eps`"):
        make_run(**FLAT, adv="fgsm", train_eps=text)


def test_a_training_radius_may_be_a_number(make_run):
    assert make_run(**FLAT, adv="fgsm", train_eps=0.25).state.full_threat.eps == 0.25


def test_training_images_are_attacked_in_validation_where_their_batches_tell_nothing(make_run):
    """They are counted once more here, by hand."""
    own = make_run("own", **FLAT, eps=EPS, train_eps="0.3", adv="fgsm", val_n=40, val_attack="fgsm", epochs=1)
    fit(own)
    row = own.state.history[-1]
    x, y = choose(own.train, 40).batch()
    model = own.state.eval_model.eval()
    x_adv = plugins.load("attack", "fgsm")(model, x, y, own.threat, generator=torch.Generator())
    both = (predict_labels(model(x)) == y) & (predict_labels(model(x_adv)) == y)
    assert row.train_robust == pytest.approx(both.float().mean().item())
    assert row.robust_gap == pytest.approx(row.train_robust - row.val_robust)
    same = make_run("same", **FLAT, eps=EPS, train_eps=EPS, adv="fgsm", epochs=1)
    assert "train_robust" not in same.validate(20)
    assert same.state.at_val_radius
