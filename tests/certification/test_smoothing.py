"""Randomised smoothing, against a plain loop and against known results for linear classifiers."""

import copy
import math

import pytest
import torch
from scipy.stats import beta, norm

import robustcls
from robustcls.certification.smoothing import (
    ABSTAIN,
    BLOCK,
    COUNT,
    SELECT,
    STREAM,
    Certificate,
    Smoothing,
    certify,
    count_votes,
    least_draws,
    predict,
)
from robustcls.core.errors import InputError
from robustcls.core.seeds import mix
from robustcls.runtime.memory import OomSafeBatches
from tests.helpers.eval_models import make_batch, make_net
from tests.helpers.linear_in_noise import TwoClasses, images_at

SIGMA, N, N0, ALPHA = 0.25, 250, 50, 0.001


def noise_of(seed, sample, purpose, n, shape):
    blocks = []
    for number, start in enumerate(range(0, n, BLOCK)):
        generator = torch.Generator().manual_seed(mix(seed, STREAM, sample, purpose, number))
        blocks.append(torch.randn(min(BLOCK, n - start), *shape, generator=generator))
    return torch.cat(blocks)


def plain_loop(model, image, first, then, sigma, alpha):
    """Return class, radius and count by CERTIFY of the paper, one noisy image after another.

    first, then: the noise for the choice of the class, and for counting.
    """

    def counts(noise):
        found = [0] * 4
        for one in noise:
            found[int(model((image + sigma * one)[None])[0].argmax())] += 1
        return found

    with torch.no_grad():
        top = max(range(4), key=counts(first).__getitem__)
        count = counts(then)[top]
    low = beta.ppf(alpha, count, len(then) - count + 1) if count else 0.0
    return (top, sigma * norm.ppf(low), count) if low > 0.5 else (ABSTAIN, 0.0, count)


def test_it_is_the_plain_loop_with_the_same_noise_and_within_the_bound_with_other_noise():
    model, (x, _) = make_net(), make_batch(6)
    y = model(x).argmax(1)
    found = robustcls.certify(model, x, y, SIGMA, n=N, n0=N0, alpha=ALPHA, seed=3)
    torch.manual_seed(11)
    for number, sample in enumerate(found.record.samples):
        same = [noise_of(3, number, purpose, n, x.shape[1:]) for purpose, n in ((SELECT, N0), (COUNT, N))]
        label, radius, count = plain_loop(model, x[number], *same, SIGMA, ALPHA)
        assert sample.count == count
        assert int(found.predicted[number]) == label
        expected = radius if label == y[number] else 0.0
        assert float(found.radius[number]) == pytest.approx(expected, abs=1e-9)
        other = [torch.randn(n, *x.shape[1:]) for n in (N0, N)]
        counted = plain_loop(model, x[number], *other, SIGMA, ALPHA)[2]
        if sample.candidate == int(y[number]):
            spread = math.sqrt(2 * N * 0.25)
            assert abs(counted - count) < 4.5 * spread, "both are draws from the same binomial distribution"
    assert len({sample.count for sample in found.record.samples}) > 1


def test_the_radius_of_a_linear_classifier_is_its_distance_and_never_more():
    """Only noise along the weights matters, so the true radius of the smoothed classifier is the margin itself."""
    margins = [0.02, 0.1, 0.2, 0.3, 0.4, -0.2]
    net, x = images_at(margins)
    n = 20_000
    found = robustcls.certify(net, x, torch.zeros(6, dtype=torch.long), SIGMA, n=n, n0=100, alpha=ALPHA)
    for margin, radius, predicted in zip(margins, found.radius.tolist(), found.predicted.tolist(), strict=True):
        if margin > 0.05:
            # The bound lies about z standard errors below the probability.
            p = norm.cdf(margin / SIGMA)
            low = p - 5.5 * math.sqrt(p * (1 - p) / n)
            assert SIGMA * norm.ppf(low) < radius < margin
        if margin < -0.05:
            assert (predicted, radius) == (1, 0.0), "the vote is for the wrong class"
    assert found.accuracy_at(0) == found.certified.double().mean() <= 5 / 6
    assert found.accuracy_at(0.15) == 3 / 6
    assert found.accuracy_at(found.radius.max().item()) == 1 / 6
    assert found.accuracy_at(1) == 0


def test_swapped_labels_certify_nothing():
    net, x = images_at([0.3, -0.3, 0.2])
    right = torch.tensor([0, 1, 0])
    assert robustcls.certify(net, x, right, SIGMA, n=N).certified.all()
    swapped = robustcls.certify(net, x, 1 - right, SIGMA, n=N)
    assert not swapped.certified.any()
    assert swapped.radius.eq(0).all()
    assert [one.accuracy for one in swapped.record.curve] == [0.0] * 4


class Fickle(TwoClasses):
    """A model that is right on clean images whose margin is a multiple of the period, but guesses under noise, like a model
    that was not trained with noise."""

    def margin(self, x):
        return torch.cos(500 * super().margin(x))


def test_a_model_that_noise_confuses_certifies_nothing_however_accurate():
    _, x = images_at([2 * math.pi / 500 * number for number in range(10)])
    y = torch.zeros(10, dtype=torch.long)
    assert Fickle()(x).argmax(1).eq(0).all()
    found = robustcls.certify(Fickle(), x, y, SIGMA, n=500, n0=50)
    assert not found.certified.any(), "a false certificate among ten has a probability of 1%, and the seed is fixed"
    assert found.record.abstained == 10


def test_two_seeds_agree_within_the_bound():
    """A radius exceeds the true one with a probability of at most 0.001, so of 40 radii at most one should."""
    margins = [0.05 + 0.02 * number for number in range(20)]
    net, x = images_at(margins)
    y = torch.zeros(20, dtype=torch.long)
    first, second = (robustcls.certify(net, x, y, SIGMA, n=1000, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.radius, second.radius)
    false = sum(float(found.radius[i]) > margins[i] for found in (first, second) for i in range(20))
    assert false <= 1
    for point in first.record.curve:
        low, high = second.record.at(point.radius).ci95
        assert low <= point.accuracy <= high


def test_neither_the_batch_size_nor_the_company_of_a_sample_changes_a_count():
    model, (x, y) = make_net(), make_batch(3)
    whole = robustcls.certify(model, x, y, SIGMA, n=N).record.samples
    for size in (1, 7, 128, 1000):
        assert robustcls.certify(model, x, y, SIGMA, n=N, batch_size=size).record.samples == whole
    assert robustcls.certify(model, x[:1], y[:1], SIGMA, n=N).record.samples == whole[:1]


def test_a_model_is_left_as_it_was_and_is_judged_in_eval_mode():
    model, (x, y) = make_net(), make_batch(2)
    expected = robustcls.certify(model, x, y, SIGMA, n=N).record.samples
    model.train()
    model.head.weight.requires_grad_(False)
    before, torch_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert robustcls.certify(model, x, y, SIGMA, n=N).record.samples == expected
    assert model.training
    assert model.body[3].training
    assert not model.head.weight.requires_grad
    assert model.body[0].weight.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch_state, torch.get_rng_state())


def test_a_smoothed_model_brings_its_own_sigma():
    net, x = images_at([0.3])
    y = torch.zeros(1, dtype=torch.long)
    own = robustcls.certify(robustcls.smoothed(net, sigma=0.5), x, y, n=N)
    assert own.record.sigma == 0.5
    assert own.radius == robustcls.certify(net, x, y, 0.5, n=N).radius
    with pytest.raises(InputError, match=r"smoothed with sigma 0\.5, and `sigma=0\.25` was given"):
        robustcls.certify(robustcls.smoothed(net, sigma=0.5), x, y, sigma=0.25)
    with pytest.raises(InputError, match="give `sigma`"):
        robustcls.certify(net, x, y)


def test_the_fewest_draws_are_the_closed_form():
    for alpha in (0.001, 0.01, 0.05, 0.25, 0.3):
        least = least_draws(alpha)
        assert beta.ppf(alpha, least, 1) > 0.5
        assert least == 1 or beta.ppf(alpha, least - 1, 1) <= 0.5
    assert least_draws(0.001) == 10
    assert Smoothing(0.25, n=1000).largest == pytest.approx(0.25 * norm.ppf(0.001 ** (1 / 1000)))


def votes_of(*answers):
    """Return a stand-in for a model with these vote counts; the first counts choose the class."""
    given = iter(answers)
    return lambda n, purpose: torch.tensor(next(given))


def test_what_names_no_class_is_never_certified():
    smoothing = Smoothing(0.25, n=100, n0=10)
    assert certify(votes_of([0, 9, 1], [0, 100, 0]), smoothing).predicted == 1
    assert certify(votes_of([1, 0, 9], [0, 0, 100]), smoothing) == Certificate(ABSTAIN, 0.0, -1, 0, -1)
    assert certify(votes_of([0, 9, 1], [0, 55, 45]), smoothing).predicted == ABSTAIN
    assert certify(votes_of([0, 9, 1], [0, 0, 100]), smoothing).predicted == ABSTAIN

    def silent(x):
        return torch.where(x.flatten(1)[:, :1] > 0, torch.nan, 1.0) * torch.ones(len(x), 3)

    image, parts = torch.zeros(1, 4, 4), OomSafeBatches(64)
    counts = count_votes(silent, image, 400, 0.1, num_classes=3, key=(0,), parts=parts)
    assert counts.sum() == 400
    assert 150 < counts[3] < 250


def test_predict_answers_where_the_vote_is_clear():
    assert predict(votes_of([80, 20, 0]), 100, 0.001) == 0
    assert predict(votes_of([55, 45, 0]), 100, 0.001) == ABSTAIN
    assert predict(votes_of([10, 10, 80]), 100, 0.001) == ABSTAIN


class Random(TwoClasses):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


class Together(TwoClasses):
    """A model whose output depends on the whole batch."""

    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True))


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (TwoClasses(), {"sigma": 0}, "noise without spread proves nothing"),
        (TwoClasses(), {"sigma": -0.25}, "noise without spread proves nothing"),
        (TwoClasses(), {"sigma": math.nan}, "noise without spread proves nothing"),
        (TwoClasses(), {"n": 9}, "9 draws cannot certify anything at alpha 0.001, even if all give one class: use 10"),
        (TwoClasses(), {"n0": 0}, "0 draws cannot choose a class"),
        (TwoClasses(), {"alpha": 0}, "is not a valid probability of error"),
        (TwoClasses(), {"alpha": 0.5}, "is not a valid probability of error"),
        (TwoClasses(), {"precision": "fp17"}, "precision 'fp17' is not known"),
        (Random(), {}, "the model is itself random"),
        (robustcls.averaged(Random()), {}, "the model is itself random"),
        (robustcls.averaged(robustcls.smoothed(TwoClasses(), sigma=0.25)), {}, "the model is itself random"),
        (Together(), {}, "depend on the rest of the batch"),
    ],
)
def test_wrong_input_is_refused_in_one_line(model, options, said):
    x, y = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    with pytest.raises(InputError, match=said) as refused:
        robustcls.certify(model, x, y, **({"sigma": 0.25, "n": 100} | options))
    assert len(str(refused.value).splitlines()) == 1


def test_a_run_that_was_cut_off_goes_on_to_the_same_result(tmp_path, monkeypatch):
    net, x = images_at([0.1 * number for number in range(1, 9)])
    y = torch.zeros(8, dtype=torch.long)
    monkeypatch.setattr("robustcls.evaluation.certify_by_smoothing.DRAWS_KEPT", 2 * N)
    whole = robustcls.certify(net, x, y, SIGMA, n=N).record.samples
    from robustcls.evaluation import certify_by_smoothing

    real, done = certify_by_smoothing.certify_all, []

    def cut(*arguments, **options):
        for one in real(*arguments, **options):
            if len(done) == 5:
                raise KeyboardInterrupt
            done.append(one)
            yield one

    monkeypatch.setattr(certify_by_smoothing, "certify_all", cut)
    with pytest.raises(KeyboardInterrupt):
        robustcls.certify(net, x, y, SIGMA, n=N, resume=tmp_path / "kept")
    done.clear()
    with pytest.raises(InputError, match="another n"):
        robustcls.certify(net, x, y, SIGMA, n=N + 1, resume=tmp_path / "kept")
    found = robustcls.certify(net, x, y, SIGMA, n=N, resume=tmp_path / "kept")
    assert found.record.samples == whole
    assert len(done) == 4, "two files with two samples each were kept"
    assert not (tmp_path / "kept").exists()
