"""Certificates in a report: a section with lower and upper bounds, the verdict, the comparison and the index."""

import dataclasses
import random
import re

import pytest

from robustcls.reporting import render
from robustcls.reporting.context import Model, look_up
from robustcls.reporting.index import render_index
from robustcls.reporting.sections.certified import Sides, _steps
from robustcls.results.records import Accuracy, Evaluation
from robustcls.results.statistics import wilson
from tests.helpers.bracketed import bounded, radius_of, smoothed_bracket
from tests.helpers.report_page import Element, read, shown_text
from tests.reporting.test_measured import below, rows_of, section

HOSTILE = "</script><img src=x onerror=alert(1)>"
TABLE = "Certified accuracy by radius"
BETWEEN = "robust accuracy lies between"


def shown(html: str, slug: str = "certified") -> str:
    return " ".join(section(html, slug).text.split())


def drawn(html: str) -> list[Element]:
    return [one for one in below(section(html, "certified")) if one.tag == "svg"]


def show(*evaluations: Evaluation) -> str:
    return render(evaluations, sections=["verdict", "certified", "comparison"])


def interval(count: int, total: int = 100) -> str:
    low, high = wilson(count, total)
    return f"{count / total:.1%} [{low:.1%}, {high:.1%}]"


def test_the_table_has_both_sides_of_every_radius():
    rows = rows_of(show(smoothed_bracket()), TABLE)
    assert rows == [
        ["0", interval(70), interval(80), "clean images", "+10.0", "10"],
        ["0.125", interval(55), interval(70), "0.125", "+15.0", "10"],
        ["0.25", interval(55), interval(60), "0.25", "+5.0", "10"],
        ["0.5", interval(40), interval(45), "0.5", "+5.0", "10"],
        ["0.75", interval(0), interval(45), "0.5", "+45.0", "10"],
        ["1", interval(0), interval(5), "1", "+5.0", "10"],
    ]


def test_numbers_are_those_of_the_evaluation():
    for evaluation in (smoothed_bracket(), bounded(), bounded(eps=16)):
        numbers = [one for one in read(show(evaluation)) if one.get("class") == "n"]
        assert any(one.get("data-path").startswith("certified.") for one in numbers)
        for one in numbers:
            spec, path = one.get("data-format"), one.get("data-path")
            value = look_up(evaluation, path) if path else float(one.get("data-value"))
            assert one.text == format(int(value) if spec.endswith("d") else value, spec)


def test_the_figure_has_both_curves_and_the_sentence_the_bracket():
    html = show(smoothed_bracket())
    (figure,) = drawn(html)
    for word in ("certified:", "attacked:", "eps = 0.25", "limit of 1,000 draws", "radius, l2 norm"):
        assert word in figure.text, word
    said = shown(html)
    assert f"At l2 0.25, robust accuracy lies between {interval(55)} (certified) and {interval(60)} (measured" in said
    assert "holds with probability 0.999: among 100 samples, at most 0.1 are expected" in said
    assert f"no radius above {radius_of(1000):.3g}" in said
    assert "For 10 of 100 samples the vote is too close" in said
    assert "8/255, however robust" not in said
    assert "contradict" not in said


def test_the_curve_that_is_drawn_is_a_lower_bound_at_every_radius():
    evaluation, draw = smoothed_bracket(), random.Random(0)
    for one in evaluation.certified.samples:  # more radii than the plot shows
        one.radius = draw.random() if one.predicted == one.label else 0.0
    for record in (evaluation.certified, bounded().certified):
        x, shares = _steps(record, 1.0)
        for radius in [draw.random() for _ in range(200)]:
            held = sum(one.predicted == one.label and one.radius >= radius for one in record.samples)
            at = next(i for i, right in enumerate(x) if right >= radius)  # as `steps-pre` draws it
            assert shares[at] == pytest.approx(held)
    many = [dataclasses.replace(record.samples[0], index=i, radius=(1 + i) / 2000) for i in range(2000)]
    x, shares = _steps(dataclasses.replace(record, samples=many), 1.0)
    assert len(x) <= 302
    for place, right in enumerate(x[1:], 1):
        middle = (x[place - 1] + right) / 2
        assert shares[place] <= 100 * sum(one.radius >= middle for one in many) / 2000 + 1e-9


def test_each_class_has_both_sides_at_the_radius_of_the_threat():
    evaluation = smoothed_bracket()
    rows = rows_of(show(evaluation), "Certified accuracy by class")
    assert len(rows) == 10
    for label, row in enumerate(rows):
        proven = [one for one in evaluation.certified.samples if one.label == label]
        sure = sum(one.predicted == one.label and one.radius >= 0.25 for one in proven)
        left = sum(one.label == label == one.clean == one.adversarial for one in evaluation.samples)
        assert row[1:] == ["10", interval(sure, 10), interval(left, 10), f"{10.0 * (left - sure):+.1f}"]


def test_bounds_say_nothing_beyond_what_was_tried():
    html = show(bounded(eps=16))
    rows = rows_of(html, TABLE)
    assert [row[0] for row in rows] == ["0", "2/255", "4/255", "8/255", "16/255"]
    assert rows[-1][1:] == ["not certified at this radius", interval(60), "16/255", "not known"]
    assert rows[1][1:4] == [interval(70), interval(80), "clean images"]
    assert "different radii and do not bound the same accuracy" in shown(html)
    assert "certified:" in drawn(html)[0].text
    assert BETWEEN not in " ".join(shown_text(html).split())
    assert f"Certified{interval(20)} at linf 8/255; nothing was certified at the eps of the attacks." in shown(
        html, "verdict"
    )


def test_bounds_are_for_small_networks():
    said = shown(show(bounded()))
    assert "get 0% at 8/255, however robust they are" in said
    assert "by bounds on its layers: CROWN <b>." in said
    assert "Gaussian" not in said
    assert f"between {interval(20)} (certified) and {interval(60)}" in said


def test_without_certificates_there_is_no_section():
    evaluation = dataclasses.replace(smoothed_bracket(), certified=None)
    html = render([evaluation])
    assert "certified" not in [one.get("id") for one in read(html)]
    assert BETWEEN not in " ".join(shown_text(html).split())
    assert "Certified" not in shown_text(html)


def other_samples(evaluation: Evaluation) -> None:
    evaluation.samples[0].index = 1000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda e: setattr(e.model, "name", "noise/ckpt.pt"),
            "the attacks are on noise/ckpt.pt, and the certificates are for the vote",
        ),
        (
            lambda e: setattr(e.model, "name", f"{HOSTILE}(x)"),
            f"the attacks are on {HOSTILE}(x), and the certificates are for the vote",
        ),
        (other_samples, "the attacks have other samples"),
        (lambda e: setattr(e, "attacks", []), "no attack was run on it"),
    ],
)
def test_a_lower_bound_never_stands_beside_attacks_on_something_else(change, reason):
    evaluation = smoothed_bracket()
    change(evaluation)
    html = show(evaluation)
    assert f"Only the lower bound is shown, because {reason}" in shown(html)
    assert [row[:2] for row in rows_of(html, TABLE)] == [
        ["0", interval(70)], ["0.25", interval(55)], ["0.5", interval(40)], ["0.75", interval(0)],
    ]  # fmt: skip
    assert all(len(row) == 3 for row in rows_of(html, TABLE)), "there are no columns for attacks and gap"
    assert "attacked" not in drawn(html)[0].text
    assert BETWEEN not in " ".join(shown_text(html).split())
    assert not any(one.tag == "img" for one in read(html))
    assert "without a matching attack" in shown(html, "verdict")


def test_a_certificate_above_an_attack_is_said():
    evaluation = smoothed_bracket()
    evaluation.clean = Accuracy.of(60, 100)
    evaluation.curve[0].robust = evaluation.clean
    html = show(evaluation)
    assert "Certified accuracy is above attacked accuracy at 0: the two contradict each other." in shown(html)
    assert ["0", interval(70)] == rows_of(html, TABLE)[0][:2]
    assert rows_of(html, TABLE)[0][4] == "-10.0 few draws"


def test_a_gap_below_zero_is_marked_in_the_table_by_class():
    """Class 0 has ten samples. All of them are certified, and some are broken."""
    for evaluation, word in ((smoothed_bracket(), "few draws"), (bounded(), "contradiction")):
        certain = next(one for one in evaluation.certified.samples if one.label == 0)
        some = [dataclasses.replace(certain, index=one.index) for one in evaluation.certified.samples if one.label == 0]
        others = [one for one in evaluation.certified.samples if one.label != 0]
        found = evaluation.certified
        more = {name: getattr(found, name) for name in ("sigma", "n", "n0", "alpha")}
        radii = [point.radius for point in found.curve]
        evaluation.certified = type(found).of(found.method, found.norm, some + others, radii, **more)
        rows = rows_of(show(evaluation), "Certified accuracy by class")
        left = sum(one.label == 0 == one.clean == one.adversarial for one in evaluation.samples)
        assert left < 10
        assert rows[0][4] == f"{10.0 * (left - 10):+.1f} {word}"
        assert not any("few" in row[4] or "contra" in row[4] for row in rows[1:] if not row[4].startswith("-"))


def test_the_verdict_says_between_what_robust_accuracy_lies():
    said = shown(show(smoothed_bracket()), "verdict")
    lead = "Under l2 perturbations of 0.25, the robust accuracy lies between 55.0% (certified) and 60.0% (measured"
    assert lead in said
    assert f"It lies between{interval(55)} (certified) and {interval(60)} (measured under attack)" in said
    assert "each certificate holds with probability 0.999" in said


def test_names_stay_inert():
    evaluation = smoothed_bracket(f"smoothed({HOSTILE}, sigma=0.25)")
    evaluation.model.classes = [HOSTILE, *map(str, range(1, 10))]
    html = render([evaluation, smoothed_bracket()])
    assert not any(one.tag == "img" for one in read(html))
    assert HOSTILE in shown_text(html)


def test_models_with_and_without_stand_beside_each_other():
    plain = dataclasses.replace(smoothed_bracket("other"), certified=None)
    wrong = smoothed_bracket("third")
    html = show(smoothed_bracket(), plain, wrong)
    cells = next(row for row in rows_of(html, "Models side by side") if row[0] == "Certified accuracy, lower bound")
    assert cells[1:] == [interval(55), "not measured", "not for the attacked model"]
    assert "other: nothing was certified" in shown(html)
    assert len(drawn(html)) == 2
    assert not any("Certified" in row[0] for row in rows_of(show(plain, plain), "Models side by side"))
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_the_index_has_a_column_where_any_is_certified(tmp_path):
    dataclasses.replace(smoothed_bracket("plain"), certified=None).save(tmp_path / "a.json")
    assert "Certified" not in shown_text(render_index(tmp_path))
    smoothed_bracket().save(tmp_path / "b.json")
    smoothed_bracket("noise/ckpt.pt").save(tmp_path / "c.json")
    bounded(eps=16).save(tmp_path / "d.json")
    column = [row[3] for row in rows_of(render_index(tmp_path), "Evaluations")]
    assert column == ["not measured", interval(55), "not for the attacked model", f"{interval(20)} at linf 8/255"]


def test_the_same_evaluation_gives_the_same_bytes():
    evaluation = smoothed_bracket()
    assert render([evaluation]) == render([Evaluation.from_json(evaluation.to_json())])


def test_attacks_on_another_classifier_are_left_out():
    assert Sides.of(Model(0, "a", smoothed_bracket("a.pt"))).attacked == []
