import statistics
from dataclasses import replace

import pytest

from robustcls.core.class_tree import read_tree
from robustcls.core.errors import InputError
from robustcls.reporting.render import report
from robustcls.results.records import Evaluation, Mistakes, Sample
from robustcls.results.severity import severity_of
from robustcls.results.stated import with_stated
from robustcls.results.statistics import mean_between, wilson
from tests.helpers.report_text import shown
from tests.helpers.sample_evaluation import NAMES, sample_evaluation

TREE = f"""
[low]
zero = ["zero"]
few = {NAMES[1:4]}
[high]
some = {NAMES[4:]}
""".replace("'", '"')


@pytest.fixture
def file(tmp_path):
    (tmp_path / "tree.toml").write_text(TREE, encoding="utf-8")
    return str(tmp_path / "tree.toml")


def sample(index, label, clean, adversarial):
    return Sample(index, label, clean, adversarial, None, None)


def test_mistakes_by_hand(file):
    tree = read_tree(file, NAMES)
    samples = [
        sample(0, 1, 1, 1), sample(1, 1, 1, 2), sample(2, 1, 2, 2), sample(3, 1, 0, 0), sample(4, 1, 1, 4),
        sample(5, 4, 4, 5), sample(6, 0, None, None),
    ]  # fmt: skip
    found = severity_of(samples, tree)
    assert (found.tree, found.height) == ("tree.toml", 3)
    assert (found.clean.by_distance, found.clean.total) == ([1, 1, 1], 3)
    assert found.clean.mean == pytest.approx((1 + 2 + 3) / 3)
    assert (found.clean.apart.correct, found.clean.apart.total) == (1, 3), "no class shares nothing with the label"
    assert found.robust.by_distance == [3, 1, 2]
    assert found.robust.mean == pytest.approx((1 + 1 + 2 + 3 + 1 + 3) / 6)
    of_one, of_four, of_zero = (2 * 1 + 2 + 6 * 3) / 9, (5 * 1 + 4 * 3) / 9, (3 * 2 + 6 * 3) / 9
    assert found.robust.chance == pytest.approx((4 * of_one + of_four + of_zero) / 6)
    assert str(found.robust).startswith("1.83 [")
    none = severity_of(samples[:1], tree)
    assert (none.clean.mean, none.clean.ci95, str(none.clean)) == (None, None, "none")


def test_an_interval_of_means_is_wilsons_where_the_values_are_the_ends_and_otherwise_covers():
    mean, (low, high) = mean_between([1, 3, 3, 1, 3], 1, 3)
    assert mean == pytest.approx(2.2)
    expected = wilson(0.6 * 4, 4)  # the variance has n - 1
    assert (low, high) == pytest.approx((1 + 2 * expected[0], 1 + 2 * expected[1]))
    values = [1, 2, 2, 3, 2, 2, 1, 2, 2, 3] * 100
    _, (low, high) = mean_between(values, 1, 3)
    half = 1.96 * statistics.stdev(values) / len(values) ** 0.5
    assert (low, high) == pytest.approx((2 - half, 2 + half), abs=1e-3)
    assert mean_between([1, 1], 1, 3)[1] == pytest.approx((1, 1 + 2 * wilson(0, 2)[1]))
    assert mean_between([3, 3], 1, 3)[1][1] == 3


def test_it_is_stated_of_an_evaluation_that_was_made_saved_and_shown(file, tmp_path):
    before = sample_evaluation()
    found = with_stated(before, tree=file)
    assert before.severity is None
    wrong = before.clean.total - before.clean.correct
    assert found.severity.clean.total == wrong
    assert f"tree     mistakes clean {found.severity.clean.mean:.2f}" in str(found)
    found.save(tmp_path / "e.json")
    again = Evaluation.load(tmp_path / "e.json")
    assert again.severity == found.severity
    report([again], tmp_path / "r.html")
    text = shown(tmp_path / "r.html")
    assert "Severity of mistakes in the class tree" in text
    assert f"{found.severity.robust.mean:.2f}" in text
    report([before], tmp_path / "r.html")
    assert "in the class tree" not in shown(tmp_path / "r.html")


def test_what_contradicts_is_refused(file, tmp_path):
    found = with_stated(sample_evaluation(), tree=file)
    few = severity_of(found.samples[:9], read_tree(file, NAMES))
    with pytest.raises(ValueError, match=r"severity\.clean"):
        replace(found, severity=few).check()
    one = found.severity.clean
    with pytest.raises(ValueError, match="by_distance"):
        Mistakes(one.by_distance, one.mean + 0.1, one.ci95, one.chance, one.apart)
    with pytest.raises(InputError, match="holds no samples"):
        with_stated(replace(found, samples=[]), tree=file)
    with pytest.raises(InputError, match="forgets 'a'"):
        with_stated(replace(found, model=replace(found.model, classes=["a", *NAMES[1:]])), tree=file)
