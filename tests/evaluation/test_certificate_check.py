"""Attacks are checked against certificates while they run."""

from dataclasses import replace

import pytest
import torch

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits
from robustcls.evaluation.certificate_check import check_earlier_attacks
from robustcls.evaluation.certificate_match import digests
from robustcls.evaluation.certify import Certificates
from robustcls.evaluation.subject import make_subject
from robustcls.results.certified import Certified, CertifiedSample
from robustcls.results.contradictions import CHECK
from tests.helpers.linear_in_noise import images_at

SIGMA, N = 0.25, 10
Y = torch.zeros(N, dtype=torch.long)


def check_in(evaluation):
    [check] = [one for one in evaluation.checks if one.id == CHECK]
    return check


def to_margin(net, margin):
    """Return an attack that moves every image straight to this distance from the boundary."""

    def straight(model, x, y, threat, *, generator=None):
        return x + (margin - net.margin(x)).view(-1, 1, 1, 1) * net.weight.view(3, 4, 4)

    return straight


def inflated(record, radius):
    """Return the same certificates with radii that are too large."""
    samples = [
        CertifiedSample(one.index, one.label, one.predicted, radius, one.candidate, one.count) for one in record.samples
    ]
    names = ("sigma", "n", "n0", "alpha", "algorithm", "weights_sha256", "images_sha256")
    more = {name: getattr(record, name) for name in names}
    return Certificates.of(Certified.of(record.method, record.norm, samples, [0], **more))


def closed_form(net, x, samples, radii):
    """Return given certificates for this model and these images."""
    known = digests(make_subject(net, x, Y, ThreatModel("l2", 0.1)))
    return Certified.of("bounds", "l2", samples, radii, algorithm="closed form", **known)


@pytest.fixture
def smooth():
    net, x = images_at([0.3] * N)
    return net, x, robustcls.smoothed(net, sigma=SIGMA, draws=1)


def test_one_draw_that_misleads_is_no_violation_where_many_give_the_label(smooth):
    """At a margin of 0.075, 62% of all draws vote for the label, so about four of ten single draws are wrong."""
    net, x, model = smooth
    certified = robustcls.certify(model, x, Y, n=1000)
    assert certified.radius.min() > 0.23
    options = {"attacks": [to_margin(net, 0.075)], "certificates": certified, "seed": 1}
    evaluation = robustcls.evaluate(model, x, Y, "l2:0.23", **options)
    check, lost = check_in(evaluation), N - evaluation.robust.correct
    assert lost > 1, "with this seed, some samples are broken by chance"
    assert evaluation.certified is certified.record
    assert (check.status, check.measured) == ("warn", 0)
    assert "the vote is wrong for 0 of them" in check.message
    assert f"{lost} of these count as not robust only by chance, because attacks use few draws" in check.message
    assert f"up to {10 * lost:.1f} points too low" in check.message


def test_attacks_made_before_are_asked_again_by_their_saved_examples(smooth, tmp_path):
    net, x, model = smooth
    certified = robustcls.certify(model, x, Y, n=1000)
    evaluation = robustcls.evaluate(model, x, Y, "l2:0.23", attacks=[to_margin(net, 0.075)], seed=1)
    lost = N - evaluation.robust.correct
    assert evaluation.examples.save(tmp_path / "x.npz") == lost > 1
    evaluation.examples = None  # as in a loaded evaluation
    evaluation.certified = certified.record
    subject = make_subject(model, x, Y, ThreatModel("l2", 0.23))
    check_earlier_attacks(subject, evaluation, None, seed=0, batch_size=64)
    check = check_in(evaluation)
    assert (check.status, check.measured) == ("warn", None)
    assert f"the vote was not repeated for {lost}: their examples are not available" in check.message
    check_earlier_attacks(subject, evaluation, tmp_path / "x.npz", seed=0, batch_size=64)
    check = check_in(evaluation)
    assert (check.status, check.measured) == ("warn", 0)
    assert f"the vote is wrong for 0 of them and right for {lost}" in check.message


def test_a_false_certificate_of_a_vote_is_caught(smooth):
    """The certificates claim a radius of 0.5, but the boundary is at 0.3, beyond which most draws vote for another class."""
    net, x, model = smooth
    false = inflated(robustcls.certify(model, x, Y, n=1000).record, 0.5)
    options = {"attacks": [to_margin(net, -0.15)], "certificates": false, "seed": 1}
    evaluation = robustcls.evaluate(model, x, Y, "l2:0.48", **options)
    check = check_in(evaluation)
    assert check.status == "fail"
    assert check.measured >= sum(one.broken_by is not None for one in evaluation.samples) > 4
    assert "of 10 certificates 0.01 are expected to be false" in check.message


@pytest.mark.slow
def test_a_false_bound_is_caught_and_a_true_one_is_not():
    net, x = images_at([0.1, 0.2, 0.3] * 3 + [0.4])
    samples = [CertifiedSample(i, 0, 0, float(net.margin(x[i : i + 1])) * 0.999) for i in range(N)]
    true = closed_form(net, x, samples, [0, 0.1])
    options = {"attacks": ["pgd(steps=10)"], "eps_grid": "0.05,0.15,0.35", "minimum_n": N}
    found = robustcls.evaluate(net, x, Y, "l2:0.25", certificates=true, **options)
    assert 0 < found.robust.correct < N
    assert check_in(found).status == "pass", check_in(found)
    for inside, caught in ((0.35, 0.3), (0.45, 0.4)):
        samples[6 if caught == 0.3 else 9] = CertifiedSample(6 if caught == 0.3 else 9, 0, 0, inside)
        false = closed_form(net, x, samples, [0, 0.1])
        found = robustcls.evaluate(net, x, Y, "l2:0.25", certificates=false, **options)
        assert check_in(found).status == "fail", "the curve and the minimum perturbations go beyond eps"
        assert check_in(found).measured == (1 if caught == 0.3 else 2)


def test_a_sample_that_only_the_curve_breaks_is_compared_with_its_certificate():
    net, x = images_at([0.1] * 5 + [0.3] * 5)
    samples = [CertifiedSample(i, 0, 0, 0.35 if i == 9 else 0.0) for i in range(N)]
    false = closed_form(net, x, samples, [0])
    few = {"attacks": ["pgd(steps=5)"], "certificates": false}
    assert check_in(robustcls.evaluate(net, x, Y, "l2:0.2", **few)).status == "pass"
    check = check_in(robustcls.evaluate(net, x, Y, "l2:0.2", eps_grid="0.32", **few))
    assert check.status == "fail"
    assert "sample 9" in check.message


@traits(minimum_norm=True)
def far(model, x, y, threat, *, generator=None):
    return (x - 0.9).clamp(0, 1)


def test_an_example_outside_ball_and_certificate_counts_for_nothing(smooth):
    _, x, model = smooth
    certified = robustcls.certify(model, x, Y, n=200)
    found = robustcls.evaluate(
        robustcls.smoothed(model.model, sigma=SIGMA), x, Y, "l2:0.1", attacks=[far], certificates=certified
    )
    assert check_in(found).status == "pass"


def test_certificates_of_something_else_are_refused(smooth):
    net, x, model = smooth
    certified = robustcls.certify(model, x, Y, n=100)
    for one, threat, given, said in (
        (net, "l2:0.1", certified, "smoothed with sigma 0.25, and the one that is attacked is not smoothed"),
        (robustcls.smoothed(net, sigma=0.5), "l2:0.1", certified, r"is smoothed with sigma 0\.5"),
        (model, "linf:0.1", certified, "in l2, and the attacks in linf"),
        (model, "l2:0.1", 3, "give what robustcls.certify returned"),
    ):
        with pytest.raises(InputError, match=said):
            robustcls.evaluate(one, x, Y, threat, attacks=["fgsm"], certificates=given)
    other, _ = images_at([0.3] * N)
    other.weight.mul_(0.9)
    for one, its, given, said in (
        (robustcls.smoothed(other, sigma=SIGMA), x, certified, "of a model with other weights"),
        (model, 1 - x, certified, "of other images"),
        (model, x, replace(certified.record, weights_sha256=""), "do not say of which weights and images"),
    ):
        with pytest.raises(InputError, match=said):
            robustcls.evaluate(one, its, Y, "l2:0.1", attacks=["fgsm"], certificates=given)
    with pytest.raises(InputError, match="of other samples"):
        robustcls.evaluate(model, x[:5], Y[:5], "l2:0.1", attacks=["fgsm"], certificates=certified)


@pytest.mark.parametrize("method", ["bounds", "smoothing"])
def test_certificates_of_other_code_with_the_same_weights_are_refused(method):
    torch.manual_seed(0)
    layers = torch.nn.Flatten(), torch.nn.Linear(48, 8), torch.nn.Linear(8, 2)
    one, other = (
        torch.nn.Sequential(*layers[:2], activation, layers[2])
        for activation in (torch.nn.ReLU(), torch.nn.LeakyReLU(0.5))
    )
    x = torch.rand(N, 3, 4, 4)
    if method == "bounds":
        certified = robustcls.certify(one, x, Y, method="bounds", norm="l2", eps_grid="0.01")
    else:
        one, other = (robustcls.smoothed(net, sigma=SIGMA) for net in (one, other))
        certified = robustcls.certify(one, x, Y, n=50)
    options = {"attacks": ["fgsm"], "certificates": certified}
    assert robustcls.evaluate(one, x, Y, "l2:0.01", **options).certified == certified.record
    with pytest.raises(InputError, match="same weights and other outputs"):
        robustcls.evaluate(other, x, Y, "l2:0.01", **options)


def test_the_model_and_the_images_may_come_in_another_form(smooth):
    """Images may come from NumPy in double precision, or in another order with their indices; the network may be wrapped."""
    net, x, model = smooth
    known = robustcls.certify(net, x.double().numpy(), Y.numpy(), sigma=SIGMA, n=100).record
    given = digests(make_subject(model, x.flip(0), Y, ThreatModel("l2", 0.1), index=torch.arange(N).flip(0)))
    assert given == {"weights_sha256": known.weights_sha256, "images_sha256": known.images_sha256}
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    bounded = robustcls.certify(plain, x, Y, method="bounds", norm="l2", eps_grid="0.01").record
    voted = robustcls.certify(plain, x, Y, sigma=SIGMA, n=20).record
    assert bounded.weights_sha256 == voted.weights_sha256 != known.weights_sha256, "the hash is that of the network"
    assert bounded.images_sha256 == known.images_sha256
