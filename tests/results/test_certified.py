import json

import pytest
from scipy.stats import beta, norm

from robustcls.core.errors import InputError
from robustcls.results.certified import Certified, CertifiedSample, smoothed_radius
from robustcls.results.records import Evaluation
from robustcls.results.statistics import clopper_pearson_low
from tests.helpers.judged_by_hand import make_evaluation

N, ALPHA, SIGMA = 100, 0.001, 0.25


def sample(index, label, candidate, count):
    radius = smoothed_radius(count, N, ALPHA, SIGMA)
    predicted = candidate if radius > 0 else None
    return CertifiedSample(index, label, predicted, radius if predicted == label else 0.0, candidate, count)


def evaluated(record):
    """Return an evaluation of four samples, all correct and three of them robust, with these certificates."""
    evaluation = make_evaluation(4, 3, n=4)
    evaluation.threat.norm = record.norm
    evaluation.certified = record
    return evaluation


def smoothing():
    samples = [sample(0, 0, 0, 100), sample(1, 1, 1, 80), sample(2, 2, 2, 55), sample(3, 3, 7, 99)]
    return Certified.of("smoothing", "l2", samples, [0.25, 0, 0.1], sigma=SIGMA, n=N, n0=10, alpha=ALPHA)


def bounds():
    samples = [
        CertifiedSample(index, index, index if index < 3 else 9, radius)
        for index, radius in enumerate((0.1, 0.05, 0.0, 0.0))
    ]
    return Certified.of("bounds", "linf", samples, [0, 0.05, 0.1], algorithm="intervals")


def test_the_bound_is_scipys():
    for count in (0, 1, 50, 99, 100):
        expected = beta.ppf(ALPHA, count, N - count + 1) if count else 0.0
        assert clopper_pearson_low(count, N, ALPHA) == pytest.approx(expected, abs=1e-12)
    low = beta.ppf(ALPHA, 80, 21)
    assert smoothed_radius(80, N, ALPHA, SIGMA) == pytest.approx(SIGMA * norm.ppf(low))
    assert smoothed_radius(55, N, ALPHA, SIGMA) == 0


@pytest.mark.parametrize("make", [smoothing, bounds])
def test_it_is_saved_and_loaded_in_an_evaluation(make, tmp_path):
    evaluation = evaluated(make())
    evaluation.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == evaluation
    assert "proven" in str(evaluation)


def test_the_curve_counts_what_is_right_and_proven():
    found = smoothing()
    assert [point.radius for point in found.curve] == [0, 0.1, 0.25]
    assert [point.correct for point in found.curve] == [2, 1, 1]
    assert found.abstained == 1
    assert (found.curve[0].accuracy, found.curve[0].ci95) == (found.at(0).accuracy, found.at(0).ci95)
    assert [point.correct for point in bounds().curve] == [3, 2, 1], "at radius 0, all correct samples count"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("samples", 1, "radius"), 0.2, "certified.samples.1.radius"),
        (("samples", 3, "radius"), 0.2, "0, as where the answer is wrong or none"),
        (("samples", 2, "predicted"), 2, "certified.samples.2.predicted"),
        (("samples", 0, "count"), 101, "certified.samples.0.count"),
        (("samples", 0, "index"), 1, "certified.samples.1.index"),
        (("samples", 0, "label"), 4, "certified.samples.0.radius"),
        (("curve", 0, "correct"), 3, "certified.curve.0.correct"),
        (("curve", 0, "accuracy"), 0.75, "certified.curve.0.accuracy"),
        (("abstained",), 0, "certified.abstained"),
        (("alpha",), 1.5, "certified.alpha"),
        (("sigma",), None, "smoothing has sigma"),
        (("norm",), "linf", "certified"),
        (("method",), "luck", "certified.method"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(path, value, said):
    whole = json.loads(evaluated(smoothing()).to_json())
    place = whole["certified"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match=said):
        Evaluation.from_json(json.dumps(whole))


@pytest.mark.parametrize(
    ("make", "change", "said"),
    [
        (
            bounds,
            lambda record: record["samples"][0].update(radius=0.5),
            r"samples\.0\.radius: 0\.5 is not one of the radii",
        ),
        (bounds, lambda record: record["samples"][1].update(radius=0.07), r"samples\.1\.radius: 0\.07 is not one of"),
        (bounds, lambda record: record["curve"].pop(), r"samples\.0\.radius: 0\.1 is not one of the radii"),
        (bounds, lambda record: record["curve"].clear(), r"certified\.curve: \[\] is not a radius or more"),
        (smoothing, lambda record: record["curve"].clear(), r"certified\.curve"),
    ],
)
def test_a_radius_that_was_never_tried_and_an_empty_curve_are_damage(make, change, said):
    whole = json.loads(evaluated(make()).to_json())
    Evaluation.from_json(json.dumps(whole))
    change(whole["certified"])
    with pytest.raises(InputError, match=said):
        Evaluation.from_json(json.dumps(whole))


def test_certificates_of_other_samples_or_another_norm_are_refused():
    evaluation = evaluated(smoothing())
    evaluation.certified.samples.pop()
    evaluation.certified = Certified.of(
        "smoothing", "l2", evaluation.certified.samples, [0], sigma=SIGMA, n=N, n0=10, alpha=ALPHA
    )
    with pytest.raises(InputError, match="the samples that were evaluated"):
        Evaluation.from_json(evaluation.to_json())
    evaluation = evaluated(smoothing())
    evaluation.threat.norm = "linf"
    with pytest.raises(InputError, match=r"certified\.norm"):
        Evaluation.from_json(evaluation.to_json())


@pytest.mark.parametrize(
    ("norm", "radii", "said"),
    [
        ("linf", [0, 0.5 / 255, 1 / 255, 2 / 255], ["0", "0.5/255", "1/255", "2/255"]),
        ("linf", [2 / 255], ["2/255"]),
        ("linf", [0.1, 0.2, 0.3], ["0.1", "0.2", "0.3"]),
        ("linf", [0.0123456], ["0.01235"]),
        ("l2", [0, 0.25, 128 / 255], ["0", "0.25", "0.502"]),
    ],
)
def test_radii_are_in_255ths_where_people_write_them_so(norm, radii, said):
    record = Certified.of("bounds", norm, [CertifiedSample(0, 0, 0, 0.0)], radii)
    assert [record.text(point.radius) for point in record.curve] == said
