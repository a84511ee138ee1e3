"""Sensitivity, specificity and ROC-AUC in an evaluation, clean and under attack."""

import pytest
import torch

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.results.records import Evaluation
from tests.helpers.eval_models import evaluated, make_batch, make_net

metrics = pytest.importorskip("sklearn.metrics")

LINF = ThreatModel("linf", 0.02)


def judged(attacks=("pgd(steps=3)",), num_classes=2, threat=LINF, **options):
    x, y = make_batch(num_classes=num_classes)
    return evaluated(
        make_net(num_classes), x, y, threat, attacks, precision="fp32", batch_size=16, **options
    )  # fmt: skip


def test_the_scores_are_those_of_the_worst_images(tmp_path):
    found = judged()
    two, labels = found.evaluation.two_classes, found.y.tolist()
    with torch.no_grad():
        clean, attacked = (
            (logits[:, 1] - logits[:, 0]).tolist() for logits in map(make_net(2), (found.x, found.examples.x_adv))
        )
    assert two.positive == 1
    assert two.clean.auc.value == pytest.approx(metrics.roc_auc_score(labels, clean), abs=1e-6)
    assert two.robust.auc.value == pytest.approx(metrics.roc_auc_score(labels, attacked), abs=1e-6)
    assert two.robust.auc.value < two.clean.auc.value
    right = found.examples.robust
    for label, rate in ((1, two.robust.sensitivity), (0, two.robust.specificity)):
        assert rate.total == labels.count(label)
        assert rate.correct == int(right[found.y == label].sum())
    assert "worst image found" in two.rule
    found.evaluation.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == found.evaluation


def test_balanced_accuracy_is_in_every_evaluation():
    for num_classes in (2, 4):
        one = judged(["fgsm"], num_classes).evaluation
        labels = [sample.label for sample in one.samples]
        assert one.balanced.clean.value == pytest.approx(
            metrics.balanced_accuracy_score(labels, [sample.clean for sample in one.samples])
        )
        assert (one.two_classes is not None) == (num_classes == 2)


def test_one_class_alone_has_no_area():
    x, y = make_batch(num_classes=2)
    two = robustcls.evaluate(make_net(2), x[y == 0], y[y == 0], LINF, attacks=["fgsm"]).two_classes
    assert (two.clean.auc, two.clean.sensitivity) == (None, None)
    assert two.clean.specificity.total == int((y == 0).sum())


@pytest.mark.parametrize(
    ("threat", "attacks", "status"),
    [
        (ThreatModel("linf", 1), ("fgsm",), "warn"),
        (ThreatModel("linf", 0.02), ("fgsm",), None),
        (ThreatModel("linf", 1), ("tests.helpers.eval_models:far", "patch(steps=1)"), None),
        (ThreatModel("l2", 10.0), ("fgsm",), "warn"),
    ],
)
def test_a_radius_that_reaches_grey_from_everywhere_is_said(threat, attacks, status):
    checks = {check.id: check for check in judged(attacks, threat=threat).evaluation.checks}
    assert ("radius" in checks) == (status is not None)
    if status:
        assert checks["radius"].status == status
        assert checks["radius"].threshold <= threat.eps


def test_a_radius_or_a_step_in_grey_levels_is_refused_before_anything_is_computed():
    x, y = make_batch(num_classes=2)

    def never(*_):
        raise AssertionError("the model was asked")

    model = make_net(2)
    model.register_forward_pre_hook(never)
    for act in (
        lambda: robustcls.evaluate(model, x, y, ThreatModel("l2", 128), attacks=["fgsm"]),
        lambda: robustcls.attack(model, x, y, ThreatModel("l2", 128), "fgsm"),
        lambda: robustcls.evaluate(model, x, y, LINF, attacks=["pgd(step_size=2)"]),
        lambda: robustcls.attack(model, x, y, LINF, "pgd(step_size=2)"),
    ):
        with pytest.raises(InputError, match=r"is too large: pixels are in \[0, 1\].*did you mean (128|2)/255\?"):
            act()


def test_logits_that_are_no_numbers_are_wrong_in_every_rate():
    class Halved(torch.nn.Module):
        """A model that gives NaN for images of class 1 and is right for class 0."""

        def forward(self, x):
            z = x.mean((1, 2, 3))[:, None] * 0
            bright = (x.mean((1, 2, 3)) > 0.5)[:, None]
            return torch.cat([z + 1, z], 1).masked_fill(bright, torch.nan)

    x = torch.cat([torch.full((6, 3, 8, 8), 0.2), torch.full((4, 3, 8, 8), 0.8)])
    one = robustcls.evaluate(Halved(), x, torch.tensor([0] * 6 + [1] * 4), LINF, attacks=["noise(draws=1)"])
    assert one.balanced.clean.value == 0.5
    assert one.two_classes.clean.sensitivity.correct == 0
    assert one.two_classes.clean.auc.value == 0


def test_the_self_checks_meet_every_class_of_data_that_lies_class_by_class():
    """The gradient vanishes only for images of the last class, and the check measures their share."""

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_net(2)

        def forward(self, x):
            bright = (x.mean((1, 2, 3), keepdim=True) > 0.5).float()
            return self.net(x * (1 - bright) + x.detach() * bright) + bright[:, :, 0, 0] * 0

    x = torch.rand(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x[:40] * 0.5, 0.5 + x[40:] * 0.5])
    y = torch.tensor([0] * 40 + [1] * 40)
    found = robustcls.evaluate(Flat(), x, y, LINF, attacks=["fgsm"])
    zero = next(check for check in found.checks if check.id == "zero_gradients")
    assert zero.measured == pytest.approx(0.5, abs=0.1)


def test_two_labels_of_a_larger_model_are_told_apart_by_their_own_logits():
    x, y = make_batch(num_classes=4)
    some = (y == 3) | (y == 1)
    x, y = x[some], y[some]
    net = make_net(4)
    found = evaluated(net, x, y, LINF, ["pgd(steps=3)"], precision="fp32")
    two, labels = found.evaluation.two_classes, (found.y == 3).tolist()
    assert (two.negative, two.positive) == (1, 3)
    for rates, images, right in (
        (two.clean, found.x, found.examples.clean == found.y),
        (two.robust, found.examples.x_adv, found.examples.robust),
    ):
        with torch.no_grad():
            logits = net(images)
        area = metrics.roc_auc_score(labels, (logits[:, 3] - logits[:, 1]).tolist())
        assert rates.auc.value == pytest.approx(area, abs=1e-6)
        assert rates.sensitivity.correct == int(right[found.y == 3].sum())
        assert rates.specificity.correct == int(right[found.y == 1].sum())
    assert "another of the model's 4 outputs is wrong" in two.rule


def test_the_positive_class_may_be_named_from_python():
    x, y = make_batch(num_classes=2)
    usual, other = (
        robustcls.evaluate(make_net(2), x, y, LINF, attacks=["fgsm"], positive=positive).two_classes
        for positive in (None, 0)
    )
    assert (usual.positive, other.positive) == (1, 0)
    assert (other.clean.sensitivity, other.robust.specificity) == (usual.clean.specificity, usual.robust.sensitivity)
    assert other.clean.auc == usual.clean.auc
    for positive in ("2", 2):
        with pytest.raises(InputError, match="unknown positive class '2'"):
            robustcls.evaluate(make_net(2), x, y, LINF, attacks=["fgsm"], positive=positive)
    x, y = make_batch(num_classes=4)
    with pytest.raises(InputError, match="there are 4 classes, not two"):
        robustcls.evaluate(make_net(4), x, y, LINF, attacks=["fgsm"], positive=1)
