"""Defences that only look robust: random ones, ones without gradients, and ones that reject inputs."""

from importlib import import_module

import pytest
import torch
from torch import nn

import robustcls
from robustcls.attacks.apgd_reject import apgd_reject
from robustcls.core.detector import Detector, make_detector
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import NO_ANSWER
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits
from robustcls.evaluation.attacks import name_attacks
from robustcls.evaluation.config import AttackConfig
from robustcls.evaluation.detector_threshold import detector_of
from robustcls.evaluation.suites import DRAWS, fast, rand
from robustcls.evaluation.verify import verify
from robustcls.models.wrappers.averaged import averaged, restart
from robustcls.results.policy import Policy, judge
from robustcls.results.records import Evaluation
from tests.helpers import defences
from tests.helpers.eval_models import Masked, make_engine, train_digits, train_linear


class Phase(nn.Module):
    """A defence that adds a wave of random phase to every pixel, with a wavelength of 1.6 grey levels, and noise to the logits.

    The wave is small and steep, so the gradient of one pass is mostly noise, which the mean over phases removes.
    """

    def __init__(self, net: nn.Module, height: float = 0.03, noise: float = 1.0) -> None:
        super().__init__()
        self.net, self.height, self.noise = net, height, noise

    def forward(self, x):
        logits = self.net(x + self.height * torch.sin(1000 * x + 6.283 * torch.rand_like(x)))
        return logits + self.noise * torch.randn_like(logits)


class Levels(nn.Module):
    """A defence that reduces the bit depth."""

    def forward(self, x):
        return (x * 4).round() / 4


class Coarse(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.levels, self.net = Levels(), net

    def forward(self, x):
        return self.net(self.levels(x))


def unconfident(images, logits):
    """Return a score that is larger where the classifier is less confident."""
    return -logits.softmax(1).amax(1)


@pytest.fixture(scope="module")
def net():
    return train_digits()


@pytest.fixture(scope="module")
def sure():
    """Return a small network with large margins, trained with noise."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    x, y = digits("train", size=8).batch()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(25):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            seen = x[rows] + 0.1 * torch.randn_like(x[rows])
            nn.functional.cross_entropy(net(seen), y[rows]).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def linear():
    return train_linear(*digits("train", size=8).batch())


def samples(n=40, split="test"):
    x, y = digits(split, size=8).batch()
    return x[:n], y[:n]


def under_noise(model, examples, passes=50):
    """Return the mean accuracy of single passes on adversarial images."""
    torch.manual_seed(7)
    with torch.no_grad():
        right = [(model(examples.x_adv).argmax(1) == examples.y).float().mean() for _ in range(passes)]
    return torch.stack(right).mean().item()


@pytest.mark.slow
def test_standard_overrates_a_random_model_and_rand_does_not(sure):
    """The images are compared by the accuracy of single passes, because each pass is random, and so is which images `standard`
    counts as broken."""
    model, (x, y) = Phase(sure), samples(60)
    torch.manual_seed(1)
    standard = robustcls.evaluate(model, x, y, "linf:0.15", suite="standard")
    repeated = robustcls.evaluate(model, x, y, "linf:0.15", suite="rand")
    assert under_noise(model, repeated.examples) < under_noise(model, standard.examples) - 0.08
    assert repeated.under_noise.robust.value == pytest.approx(under_noise(model, repeated.examples), abs=0.04)
    told = next(check for check in standard.checks if check.id == "random_output")
    assert told.status == "fail"
    assert (
        'robustcls.evaluate(robustcls.averaged(model, draws=20), images, labels, "linf:0.15", suite="rand")'
        in told.message
    )
    assert next(check for check in repeated.checks if check.id == "random_output").status == "pass"


def test_the_verdict_is_that_of_passes_no_attack_has_seen(sure, tmp_path):
    model, (x, y) = Phase(sure, noise=2.0), samples(30)
    found = robustcls.evaluate(averaged(model, draws=4), x, y, "linf:0.1", attacks="pgd(steps=5)")
    noisy = found.under_noise
    assert (noisy.passes, noisy.draws) == (20, 4)
    for part, images in (("clean", found.examples.x), ("robust", found.examples.x_adv)):
        repeated = getattr(noisy, part)
        torch.manual_seed(3)
        with torch.no_grad():
            by_hand = torch.stack([(model(images).argmax(1) == y).float().mean() for _ in range(200)]).mean().item()
        assert repeated.noise95[0] - 0.02 <= by_hand <= repeated.noise95[1] + 0.02
        assert repeated.lowest < repeated.value < repeated.highest
        assert repeated.ci95[0] < repeated.noise95[0], "the choice of 30 images adds more uncertainty than the noise"
    found.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json").under_noise == noisy
    assert f"over {noisy.passes} passes" in str(found)
    reason = judge(found, Policy(min_robust=0.0)).reasons[0]
    assert f"robust accuracy {noisy.robust.value:.1%}" in reason, "a threshold applies to one pass"


def test_no_pass_of_the_verdict_has_draws_of_an_attack_or_of_another_pass(linear, monkeypatch):
    used = {"engine": [], "under_noise": []}
    for place, seeds in used.items():
        module = import_module(f"robustcls.evaluation.{place}")

        def record(model, *seed, seeds=seeds):
            seeds.append(mix(*seed))
            restart(model, *seed)

        monkeypatch.setattr(module, "restart", record)
    x, y = samples(8)
    robustcls.evaluate(averaged(linear, draws=2), x, y, "linf:0.1", attacks="pgd(steps=2)", batch_size=4, checks=[])
    attack, passes = used.values()
    assert len(attack) > 2
    assert len(set(passes)) == len(passes) == 2 * 20
    assert not set(attack) & set(passes)


def test_the_same_seed_gives_the_same_verdict(sure):
    x, y = samples(12)
    first, second = (
        robustcls.evaluate(averaged(Phase(sure), draws=3), x, y, "linf:0.1", attacks="pgd(steps=3)", seed=seed)
        for seed in (1, 1)
    )
    assert torch.equal(first.examples.x_adv, second.examples.x_adv)
    assert first.under_noise == second.under_noise
    other = robustcls.evaluate(averaged(Phase(sure), draws=3), x, y, "linf:0.1", attacks="pgd(steps=3)", seed=2)
    assert not torch.equal(first.examples.x_adv, other.examples.x_adv)


def test_a_batch_draws_the_same_whatever_ran_before_it(sure):
    """This is needed if an evaluation is resumed, or shared by processes."""
    (x, y), found = samples(12), []
    for rows in (torch.arange(12), torch.arange(6, 12)):
        model = averaged(Phase(sure), draws=2)
        with frozen(model):
            engine = make_engine(model, x, y, ThreatModel("linf", 0.1), batch_size=6)
            found.append(list(engine.attack("pgd(steps=3)", rows, engine.threat, (0,)))[-1])
    whole, alone = found
    assert torch.equal(whole.x_adv, alone.x_adv)
    assert torch.equal(whole.margin, alone.margin)


def test_no_sample_leaves_an_attack_on_one_lucky_draw(sure):
    x, y = samples(8)
    found = robustcls.evaluate(averaged(Phase(sure), draws=2), x, y, "linf:0.1", attacks="pgd(steps=6)")
    (attack,) = found.attacks
    assert attack.options["early_stop"] is False
    assert attack.backwards == 6 * 2 * attack.attacked, "two draws per step, on every sample until the last step"


def test_rand_stops_at_no_lucky_draw():
    assert rand("linf") == ["apgd_ce(early_stop=False)", "apgd_dlr(early_stop=False)"]
    assert DRAWS["rand"] == 20


def test_a_model_that_is_not_random_is_told(net):
    x, y = samples(8)
    found = robustcls.evaluate(averaged(net, draws=2), x, y, "linf:0.1", attacks="pgd(steps=2)")
    assert found.under_noise.robust.noise95 == [found.robust.accuracy] * 2
    told = next(check for check in found.checks if check.id == "random_output")
    assert told.status == "warn"
    assert "nothing random was found: the model is not random" in told.message
    assert "  warning  random_output" in str(found).splitlines()
    assert robustcls.evaluate(net, x, y, "linf:0.1", attacks="pgd(steps=2)").under_noise is None


@pytest.mark.whole_checks
def test_rounding_looks_robust_until_gradients_pass_it(net):
    model, (x, y) = Coarse(net).eval(), samples()
    strong = ["apgd_ce(steps=20)", "apgd_t(steps=20, targets=3)"]
    looks = robustcls.evaluate(model, x, y, "linf:0.15", attacks=strong)
    falls = robustcls.evaluate(robustcls.straight_through(model, layer="levels"), x, y, "linf:0.15", attacks=strong)
    assert looks.clean.accuracy == falls.clean.accuracy
    assert looks.robust.accuracy > falls.robust.accuracy + 0.3
    with torch.no_grad():
        broken = model(falls.examples.x_adv).argmax(1) != y
    assert torch.equal(broken & falls.examples.correct, falls.examples.success), "the examples fool the original model"
    told = {check.id: check.message for check in looks.checks if check.status == "fail"}
    call = 'robustcls.evaluate(robustcls.straight_through(model, layer="levels"), images, labels, "linf:0.15")'
    assert call in told["zero_gradients"]
    assert call in told["black_box_wins"]


def test_no_layer_is_blamed_where_a_function_stops_the_gradient(net):
    x, y = samples(16)
    found = robustcls.evaluate(Masked(net, lambda x: (x * 8).round() / 8), x, y, "linf:0.1", attacks="fgsm")
    message = next(check.message for check in found.checks if check.id == "zero_gradients")
    assert "name the function at which the gradient ends" in message


def test_a_detector_looks_robust_under_transfer_and_falls_to_the_joint_attack(net, linear):
    (x, y), (held_out, _) = samples(60), samples(100, "train")
    detected = {"detector": unconfident, "fpr": 0.1, "held_out": held_out}
    transfer = robustcls.evaluate(net, x, y, "linf:0.15", attacks="pgd(steps=20)", transfer_from=linear, **detected)
    unaware = robustcls.evaluate(net, x, y, "linf:0.15", attacks="pgd(steps=20)", **detected)
    joint = robustcls.evaluate(net, x, y, "linf:0.15", attacks="apgd_reject(steps=40)", **detected)
    assert transfer.robust.accuracy > joint.robust.accuracy + 0.2
    assert unaware.robust.accuracy > joint.robust.accuracy
    assert joint.rejection.caught <= transfer.rejection.caught
    robust = transfer.examples.robust
    with torch.no_grad():
        logits = net(transfer.examples.x_adv[robust])
    refused, wrong = unconfident(None, logits) > transfer.rejection.threshold, logits.argmax(1) != y[robust]
    assert transfer.rejection.caught == int((refused & wrong).sum())
    assert 0 < transfer.rejection.caught < int(refused.sum()), "refusing a right answer does not count as caught"
    with torch.no_grad():
        logits = net(joint.examples.x_adv)
    accepted = unconfident(None, logits) <= joint.rejection.threshold
    assert (accepted & (logits.argmax(1) != y))[joint.examples.success].all(), (
        "every success is misclassified and accepted"
    )


def test_what_counts_as_an_error_beside_a_detector(net):
    (x, y), (held_out, _) = samples(60), samples(100, "train")
    found = robustcls.evaluate(net, x, y, "linf:0.01", attacks="fgsm", detector=unconfident, fpr=0.2, held_out=held_out)
    with torch.no_grad():
        logits, scores = net(x), unconfident(None, net(held_out))
    refused, right = unconfident(x, logits) > found.rejection.threshold, logits.argmax(1) == y
    assert int((scores > found.rejection.threshold).sum()) == found.rejection.held_out_rejected == 20
    assert found.clean.correct == int((right & ~refused).sum())
    assert found.rejection.clean.correct == int(right.sum())
    assert found.rejection.correct_rejected == int((right & refused).sum()) > 0
    assert torch.equal(found.examples.clean == NO_ANSWER, refused)
    assert next(check for check in found.checks if check.id == "finite_output").status == "pass"


def test_a_suite_is_run_before_the_joint_attack(net):
    (x, y), (held_out, _) = samples(10), samples(40, "train")
    found = robustcls.evaluate(net, x, y, "linf:0.05", detector=unconfident, held_out=held_out)
    assert found.robust.kind == "upper bound: fast, apgd_reject"
    assert [attack.name for attack in found.attacks] == name_attacks([*fast("linf"), "apgd_reject"])


def test_a_profile_attacks_the_detector_and_attacks_that_do_not_get_a_warning(net):
    (x, y), (held_out, _) = samples(10), samples(40, "train")
    beside = {"detector": unconfident, "held_out": held_out, "maps_n": 0}

    def found(**options):
        evaluation = robustcls.evaluate(net, x, y, "linf:0.05", **beside, **options)
        (joint,) = [check.status for check in evaluation.checks if check.id == "joint_attack"]
        assert "accepted by the detector" in evaluation.threat.goal
        return evaluation.robust.kind, joint

    assert found(profile="quick") == ("upper bound: apgd_ce(steps=20), apgd_reject", "pass")
    assert found(attacks="fgsm") == ("upper bound: fgsm", "warn")


def test_what_is_resumed_has_the_same_detector(net, tmp_path):
    (x, y), (held_out, _) = samples(10), samples(40, "train")

    def interrupted(model, x, y, threat, *, generator=None):
        raise KeyboardInterrupt

    def evaluate(detector, *attacks):
        return robustcls.evaluate(
            net,
            x,
            y,
            "linf:0.05",
            attacks=["fgsm", *attacks],
            detector=detector,
            held_out=held_out,
            resume=tmp_path / "left",
        )

    with pytest.raises(KeyboardInterrupt):
        evaluate(unconfident, interrupted)
    with pytest.raises(InputError, match="detector"):
        evaluate(lambda x, logits: -logits.amax(1), interrupted)


@pytest.mark.slow
def test_empty_parentheses_after_a_suite_change_nothing():
    (x, y), noisy = samples(5), defences.noisy()
    one, other = (robustcls.evaluate(noisy, x, y, "linf:0.05", suite=suite) for suite in ("rand", "rand()"))
    assert one.under_noise == other.under_noise is not None
    assert one.robust.correct == other.robust.correct


@pytest.mark.parametrize("suite", [{}, {"suite": "fast"}, {"suite": "targeted"}, {"attacks": "sigma_zero"}])
def test_a_target_in_l0_is_refused(suite, net):
    with pytest.raises(InputError, match="no built-in attack aims at a class in l0: leave out `target`"):
        robustcls.evaluate(net, *samples(5), "l0:5", target="second", **suite)


def test_a_quick_look_in_l0_takes_an_attack_that_knows_it(net):
    found = robustcls.evaluate(net, *samples(5), "l0:5", profile="quick", maps_n=0)
    assert [attack.name for attack in found.attacks] == ["sigma_zero"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"held_out": samples(40, "train")[0]}, "`held_out` is for the threshold of a detector"),
        ({"detector": unconfident, "held_out": 5}, "images are int"),
        ({"detector": lambda x, logits: logits}, r"gives \(40, 10\)"),
        ({"detector": lambda x, logits: logits.argmax(1)}, "give a float score per image"),
        ({"detector": lambda x, logits: x.nothing}, "failed: AttributeError"),
        ({"detector": lambda x, logits: logits[:, 0] * torch.nan}, "not finite"),
        ({"detector": unconfident, "held_out": None}, "give them as `held_out`"),
        ({"detector": unconfident, "fpr": 1.0}, "not a false positive rate"),
        ({"detector": unconfident, "fpr": 0.001}, "less than one of 40 held-out images"),
        ({"fpr": 0.05, "held_out": None}, "needs a detector, and there is none"),
        ({"detector": "unconfident"}, "write it as package.module:score"),
        ({"detector": unconfident, "suite": "rand"}, "not evaluated together with a random model"),
        ({"attacks": "apgd_reject", "held_out": None}, "attacks a model with a detector"),
    ],
)
def test_what_is_no_detector_is_refused(given, said, net):
    (x, y), (held_out, _) = samples(5), samples(40, "train")
    with pytest.raises(InputError, match=said) as caught:
        robustcls.evaluate(net, x, y, "linf:0.05", **{"held_out": held_out} | given)
    assert "\n" not in str(caught.value)


def test_the_threshold_is_the_least_that_so_many_exceed():
    scores = torch.tensor([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.4, 0.6, 0.0])
    fitted = make_detector(lambda x, logits: x[:, 0, 0, 0], 0.2, nn.Flatten(), scores.view(-1, 1, 1, 1))
    assert isinstance(fitted, Detector)
    assert fitted.threshold == pytest.approx(0.7)
    assert (fitted.above, fitted.held_out) == (2, 10)
    refused = fitted.rejects(torch.tensor([0.7, 0.71, torch.nan]).view(-1, 1, 1, 1), torch.zeros(3, 2))
    assert refused.tolist() == [False, True, True], "an input whose score is NaN is refused"


@pytest.mark.parametrize(("evaluated", "held_out"), [("test", "val"), ("train", "val"), ("val", "train")])
def test_the_threshold_is_chosen_on_a_split_that_is_not_evaluated(evaluated, held_out, linear):
    asked = []

    def split(name, *, n):
        asked.append(name)
        return digits("train", size=8)

    options = AttackConfig(detector="tests.helpers.defences:unconfident", fpr=0.1, split=evaluated)
    with pytest.raises(InputError, match="would be chosen on images that are evaluated"):
        detector_of(options, linear, split, digits("train", size=8))
    asked.clear()
    fitted = detector_of(options, linear, split, digits("test", size=8))
    assert asked == [held_out]
    with torch.no_grad():
        scores = unconfident(None, linear(digits("train", size=8).batch()[0]))
    assert (scores > fitted.threshold).float().mean() == pytest.approx(0.1, abs=1 / len(scores))


def test_an_example_counts_where_its_score_is_a_number_at_most_the_threshold(net):
    x, y = samples(3)
    with torch.no_grad():
        wrong = (net(x).argmax(1) + 1) % 10  # with these labels, every image is misclassified
    scores = torch.tensor([0.5, 0.6, torch.nan])
    detector = Detector(lambda images, logits: scores, "listed", 0.1, threshold=0.5)
    attempts = verify(net, x, x, wrong, ThreatModel("linf", 0.1), torch.arange(3), detector)
    assert attempts.success.tolist() == [True, False, False]
    assert (attempts.margin > 0).tolist() == [True, False, False]


def accepted(net, x_adv, y, detector):
    with torch.no_grad():
        logits = net(x_adv)
        return (logits.argmax(1) != y) & ~detector.rejects(x_adv, logits)


def test_a_later_restart_replaces_what_is_no_example_by_examples_alone(net):
    (x, y), (held_out, _) = samples(60), samples(100, "train")
    detector = make_detector(unconfident, 0.1, net, held_out)
    found = [
        apgd_reject(net, x, y, ThreatModel("linf", 0.12), steps=10, restarts=restarts, detector=detector,
                    generator=torch.Generator().manual_seed(0))
        for restarts in (1, 3)
    ]  # fmt: skip
    first, last = (accepted(net, x_adv, y, detector) for x_adv in found)
    assert (last | ~first).all()
    assert last.sum() > first.sum(), "restarts with other weights of the score break other samples"
    assert not last.all()
    assert torch.equal(found[1][~last], found[0][~last])
    assert torch.equal(found[1][first], found[0][first])


def test_the_weight_of_the_score_is_that_of_the_restart(net, monkeypatch):
    """The restarts use the given weight, a tenth of it and ten times as much. The loss is the clipped margin minus the weight
    times the excess of the score."""
    made = import_module("robustcls.attacks.apgd_reject")
    (x, y), (held_out, _) = samples(10), samples(100, "train")
    detector, goals = make_detector(unconfident, 0.1, net, held_out), []
    accepted_class = made._Accepted
    monkeypatch.setattr(
        made, "_Accepted", lambda *given, **more: goals.append(accepted_class(*given, **more)) or goals[-1]
    )
    made.apgd_reject(net, x, y, ThreatModel("linf", 0.001), steps=1, restarts=3, weight=2.0, detector=detector)
    assert [goal.weight for goal in goals] == [2.0, 0.2, 20.0]
    outputs = torch.tensor([[3.0, 1, 0, 0.5], [0, 3, 1, -0.5], [3, 2, 1, -0.01]])  # three logits, and the excess
    loss = goals[0].joint(outputs, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(loss, torch.tensor([-2 / 3 - 2 * 0.52, 0.2, -1 / 2 - 2 * 0.01]))
    assert goals[0].reached(outputs, torch.zeros(3, dtype=torch.int64)).tolist() == [False, True, False]
    assert goals[0].reached(outputs, torch.ones(3, dtype=torch.int64)).tolist() == [False, False, True]
