"""Balanced accuracy, sensitivity, specificity and ROC-AUC, against scikit-learn."""

import dataclasses
import math
import random

import pytest

from robustcls.core.errors import InputError
from robustcls.results import records
from robustcls.results.balance import (
    balanced_of,
    is_uneven,
    measure_balanced,
    measure_two_classes,
    measures_by_class,
    needs_balance,
    say_absent,
    say_counts,
    two_classes_of,
    what_is_estimated,
)
from robustcls.results.policy import Policy, judge
from robustcls.results.records import Accuracy, Sample
from robustcls.results.thresholds import FAIL, INCONCLUSIVE
from tests.helpers.sample_records import tiny_evaluation

metrics = pytest.importorskip("sklearn.metrics")


def samples(*kinds):
    """Return samples given as (label, clean, adversarial); a fourth number says how many of them."""
    whole = [kind[:3] for kind in kinds for _ in range(kind[3] if len(kind) > 3 else 1)]
    return [Sample(i, *kind, "pgd" if kind[1] == kind[0] != kind[2] else None, None) for i, kind in enumerate(whole)]


MAJORITY = samples((0, 0, 0, 57), (1, 0, 0, 3))  # the model always predicts the frequent class


def drawn(num_classes, n=200, seed=0):
    rng = random.Random(seed)
    kinds = []
    for _ in range(n):
        label = min(int(rng.expovariate(1.0)), num_classes - 1)  # the first classes are the most frequent
        clean = label if rng.random() < 0.8 else rng.randrange(num_classes)
        kinds.append((label, clean, clean if clean != label or rng.random() < 0.6 else rng.randrange(num_classes)))
    return samples(*kinds)


def of(found, classes=("healthy", "ill"), **changes):
    """Return an evaluation of these samples."""
    one = dataclasses.replace(
        tiny_evaluation(),
        samples=found,
        clean=Accuracy.of(sum(s.clean == s.label for s in found), len(found)),
        robust=Accuracy.of(sum(s.clean == s.label == s.adversarial for s in found), len(found)),
    )
    one.model.classes, one.data.n = list(classes), len(found)
    return dataclasses.replace(one, **changes)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_balanced_accuracy_is_scikit_learns(num_classes):
    found = drawn(num_classes)
    labels = [sample.label for sample in found]
    balanced = measure_balanced(found)
    assert balanced.num_classes == len(set(labels))
    assert balanced.clean.value == pytest.approx(
        metrics.balanced_accuracy_score(labels, [sample.clean for sample in found])
    )
    stands = [sample.label if sample.adversarial == sample.label == sample.clean else -1 for sample in found]
    assert balanced.robust.value == pytest.approx(
        metrics.recall_score(labels, stands, labels=sorted(set(labels)), average="macro")
    )
    for part in (balanced.clean, balanced.robust):
        assert 0 <= part.ci95[0] <= part.value <= part.ci95[1] <= 1


def test_a_model_that_answers_the_frequent_class_is_found_out():
    one = of(MAJORITY)
    assert one.clean.accuracy == 0.95
    assert balanced_of(one).clean.value == 0.5
    assert is_uneven(MAJORITY)
    two = two_classes_of(one)
    assert (two.positive, two.clean.sensitivity.correct, two.clean.sensitivity.total) == (1, 0, 3)
    assert two.clean.specificity == Accuracy.of(57, 57)
    assert two.clean.auc is None  # no scores were kept


def test_classes_to_within_one_sample_are_even():
    assert not is_uneven(samples((0, 0, 0, 5), (1, 1, 1, 6)))
    assert is_uneven(samples((0, 0, 0, 5), (1, 1, 1, 7)))
    assert needs_balance(of(samples((0, 0, 0, 5), (1, 1, 1, 5))))  # two classes
    assert not needs_balance(of(samples((0, 0, 0, 5), (1, 1, 1, 5), (2, 0, 0, 6)), classes="abc"))
    assert not needs_balance(of([]))
    assert balanced_of(of([])) is None
    assert two_classes_of(of([])) is None
    assert measures_by_class(of([])) == []


def test_the_rates_of_two_classes_are_scikit_learns():
    found = drawn(2)
    labels, clean = [s.label for s in found], [s.clean for s in found]
    rng = random.Random(1)
    scores = [round(label + rng.gauss(0, 1.5), 1) for label in labels]  # with ties
    two = measure_two_classes(found, (0, 1), scores, [-score for score in scores])
    assert two.clean.sensitivity.accuracy == pytest.approx(metrics.recall_score(labels, clean))
    assert two.clean.specificity.accuracy == pytest.approx(metrics.recall_score(labels, clean, pos_label=0))
    assert two.clean.auc.value == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert two.robust.auc.value == pytest.approx(1 - two.clean.auc.value)
    assert two.clean.auc.ci95[0] < two.clean.auc.value < two.clean.auc.ci95[1]


def test_the_other_class_may_be_the_positive_one():
    one = of(samples((0, 0, 0, 8), (0, 1, 1, 2), (1, 1, 0, 3), (1, 1, 1, 3)))
    ill, healthy = two_classes_of(one), two_classes_of(one, "healthy")
    assert (ill.positive, healthy.positive) == (1, 0)
    assert healthy.clean.sensitivity == ill.clean.specificity == Accuracy.of(8, 10)
    assert healthy.robust.specificity == ill.robust.sensitivity == Accuracy.of(3, 6)
    assert [row.name for row in measures_by_class(dataclasses.replace(one, two_classes=healthy))][1:3] == [
        "Sensitivity (healthy)",
        "Specificity (ill)",
    ]
    with pytest.raises(InputError, match="did you mean 'ill'"):
        two_classes_of(one, "il")


def test_scores_that_are_no_numbers_count_as_wrong():
    found = samples((0, 0, 0, 2), (1, 1, 1, 2))
    right = measure_two_classes(found, (0, 1), [-1.0, -2.0, 1.0, 2.0])
    assert right.clean.auc.value == 1
    assert right.clean.auc.ci95[0] < 0.9  # four samples prove little
    wrong = measure_two_classes(found, (0, 1), [math.nan, -2.0, math.nan, 2.0])
    assert wrong.clean.auc.value == 0.25  # the only pair in which both have scores
    endless = measure_two_classes(found, (0, 1), [-math.inf, -math.inf, math.inf, 1.0])
    assert endless.clean.auc.value == 1


def test_a_class_without_samples_has_no_rate():
    found = samples((0, 0, 0, 4))
    two = measure_two_classes(found, (0, 1), [0.0] * 4)
    assert (two.clean.sensitivity, two.clean.auc) == (None, None)
    one = of(found)
    assert measures_by_class(one)[1].write(None) == ("-", "-")
    assert say_absent(one) == "no sample of ill"
    one.data.split_counts = [570, 3]
    assert say_absent(one) == "no sample of ill (3 in the split)"


def test_counts_are_named_where_they_are_few():
    assert say_counts(of(MAJORITY)) == "healthy 57, ill 3"
    many = samples(*((label, label, label, 2 + (label == 7)) for label in range(30)))
    assert say_counts(of(many, classes=[f"c{i}" for i in range(30)])) == "30 classes of 2 (c0) to 3 (c7) samples"
    assert say_counts(of(many[:14], classes=[])) == ", ".join(f"class {i} 2" for i in range(7))
    assert say_counts(of([])) == say_absent(of([], classes="ab")) == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"n": 60, "available": 60, "sampling": "all"}, "the split itself"),
        ({"n": 60, "available": 600, "sampling": "by hand"}, "not recorded"),
        ({"n": 60, "available": 600, "sampling": "by hand", "estimates": "what we say"}, "what we say"),
        (
            {"n": 60, "available": 600,
             "sampling": "the first samples of each class in file order, taken in turn over the classes"},
            "every class is equally frequent, not on the split",
        ),
    ],
)  # fmt: skip
def test_what_accuracy_estimates(data, words):
    one = of(MAJORITY, data=records.Data("folder:x", "test", sha256="ab", **data))
    assert words in what_is_estimated(one)


def mapped(found, outputs=(2, 0), names=("fox", "owl", "lynx", "hare")):
    """Return an evaluation on cats and dogs of a model that knows more animals."""
    one = of(found, names)
    one.data.class_map = records.ClassMap(["cat", "dog"], list(outputs), "by a file")
    return one


def test_two_classes_of_the_data_are_told_apart_by_a_model_that_knows_more():
    """Any other output is a wrong answer. Evaluations of earlier versions have no scores."""
    one = mapped(samples((2, 2, 2, 4), (2, 3, 3, 1), (0, 0, 1, 2), (0, 0, 0, 5), (0, 2, 2, 1)))
    two = two_classes_of(one)
    assert (two.negative, two.positive, two.clean.auc) == (2, 0, None)
    assert (two.clean.sensitivity, two.robust.sensitivity) == (Accuracy.of(7, 8), Accuracy.of(5, 8))
    assert two.clean.specificity == Accuracy.of(4, 5)
    assert "another of the model's 4 outputs is wrong" in two.rule
    for name in ("cat", "lynx"):  # the name in the data, and in the model
        assert two_classes_of(one, name).clean.sensitivity == Accuracy.of(4, 5)
    assert [row.name for row in measures_by_class(one)] == [
        "Balanced accuracy", "Sensitivity (dog)", "Specificity (cat)", "ROC-AUC",
    ]  # fmt: skip
    with pytest.raises(InputError, match="unknown positive class 'owl'"):
        two_classes_of(one, "owl")


def test_classes_that_are_one_output_are_not_two():
    one = mapped(samples((2, 2, 2, 4)), outputs=(2, 2))
    assert two_classes_of(one) is None
    with pytest.raises(InputError, match="there is 1 class, not two"):
        two_classes_of(one, "cat")
    with pytest.raises(InputError, match="there are 3 classes, not two"):
        two_classes_of(of(samples((2, 2, 2, 4)), "abc"), "a")


def test_the_positive_class_of_an_evaluation_made_earlier_has_the_other_of_two():
    one = of(MAJORITY)
    one.two_classes = dataclasses.replace(two_classes_of(one, "healthy"), negative=None)
    assert (one.two_classes.positive, one.two_classes.other) == (0, 1)
    assert two_classes_of(one, "ill") == two_classes_of(of(MAJORITY))


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (of(samples((0, 0, 0, 60))), "over 1 of 2 classes"),
        (of(samples((0, 0, 0, 4), (2, 2, 2, 9)), classes="abc"), "over 2 of 3 classes"),
        (of(MAJORITY), ""),
        (mapped(samples((2, 2, 2, 9))), "over 1 of 2 classes"),
        (mapped(samples((2, 2, 2, 9), (0, 2, 2, 1))), ""),  # other outputs of the model are not classes of the data
        (of(samples((0, 0, 0, 3)), classes=()), ""),  # the number of classes is unknown
    ],
)
def test_balanced_accuracy_says_over_which_classes_it_is(one, words):
    """This holds for evaluations without a record, and for records of earlier versions, which did not say it."""
    for recorded in (None, measure_balanced(one.samples)):
        one.balanced = recorded
        row = measures_by_class(one)[0]
        assert (row.over, row.full_name) == (words, f"Balanced accuracy {words}".strip())


@pytest.mark.parametrize(("threshold", "status"), [(0.1, INCONCLUSIVE), (0.5, INCONCLUSIVE), (0.6, FAIL)])
def test_a_class_without_samples_can_still_make_or_mar_balanced_accuracy(threshold, status):
    """All samples of one of two classes are misclassified. If the other class were all right, it would be one half."""
    one = of(samples((0, 1, 1, 60)))
    found = judge(one, Policy(min_balanced_clean=threshold)).criteria[0]
    assert (found.status, "over 1 of 2 classes: no sample of ill" in found.measured) == (status, True)
