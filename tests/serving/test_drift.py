"""The drift statistic, and its rate of false alarms."""

import numpy
import pytest
from scipy.stats import ks_2samp

from robustcls.core.errors import InputError
from robustcls.serving.drift import Drift

ALPHA, WINDOW, K = 0.01, 500, 10


def threshold(n):
    return numpy.sqrt(-numpy.log(ALPHA / K / 2) / 2 * (n + WINDOW) / (n * WINDOW))


def reference(probabilities):
    quantiles = numpy.quantile(probabilities, numpy.linspace(0, 1, 101), axis=0).T
    return Drift(quantiles, float(threshold(len(probabilities))), WINDOW)


def outputs(rng, n, scale=3.0, shift=0.0):
    """Return softmax outputs of a classifier that is more or less confident."""
    logits = scale * rng.standard_normal((n, K))
    logits[:, 0] += shift
    shares = numpy.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def test_the_statistic_is_kolmogorovs_and_smirnovs():
    rng = numpy.random.default_rng(0)
    before, after = outputs(rng, 20_000), outputs(rng, WINDOW, shift=1.0)
    expected = [ks_2samp(after[:, label], before[:, label]).statistic for label in range(K)]
    numpy.testing.assert_allclose(reference(before).distances(after), expected, atol=0.005)  # by 101 quantiles


def test_values_that_repeat_are_no_drift():
    saturated = numpy.zeros((WINDOW, K))
    saturated[numpy.arange(WINDOW), numpy.arange(WINDOW) % K] = 1  # a network that is always certain
    assert reference(saturated).distances(saturated).max() < 0.02
    assert reference(saturated).distances(numpy.roll(saturated, 1, 0)).max() < 0.02
    other = numpy.zeros((WINDOW, K))
    other[:, 3] = 1
    numpy.testing.assert_allclose(reference(saturated).distances(other)[3], 0.9, atol=0.01)


def test_at_most_one_window_in_a_hundred_is_a_false_alarm():
    rng = numpy.random.default_rng(0)
    wrong, windows = 0, 2000
    for _ in range(windows // 20):
        drift = reference(outputs(rng, 768))
        wrong += sum(drift.has_drifted(drift.distances(outputs(rng, WINDOW))) for _ in range(20))
    assert wrong / windows <= 0.01


def test_less_certain_outputs_are_found():
    rng = numpy.random.default_rng(0)
    drift = reference(outputs(rng, 768))
    assert all(drift.has_drifted(drift.distances(outputs(rng, WINDOW, scale=2.0))) for _ in range(20))


def test_a_window_is_full_by_count_whatever_the_requests_hold():
    rng = numpy.random.default_rng(0)
    before, after = outputs(rng, 768), outputs(rng, 1300)
    drift, found = reference(before), []
    at = 0
    for size in (1, 400, 99, 600, 200):
        found += drift.add(after[at : at + size])
        at += size
    expected = [reference(before).distances(after[start : start + WINDOW]) for start in (0, WINDOW)]
    numpy.testing.assert_array_equal(found, expected)
    numpy.testing.assert_array_equal(drift.statistics, expected[-1])
    assert len(numpy.concatenate(drift.seen)) == 300


@pytest.mark.parametrize("damage", ["nothing", "half", "other classes", "no window"])
def test_a_damaged_file_is_refused(damage, tmp_path):
    path = tmp_path / "drift.npz"
    quantiles = numpy.zeros((K, 101))
    numpy.savez(path, quantiles=quantiles[:3] if damage == "other classes" else quantiles, threshold=0.1,
                window=0 if damage == "no window" else WINDOW)  # fmt: skip
    if damage in ("nothing", "half"):
        path.write_bytes(path.read_bytes()[: 0 if damage == "nothing" else 200])
    with pytest.raises(InputError, match="drift"):
        Drift.of(path, K)
