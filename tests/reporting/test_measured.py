"""The sections of the report on further measures: curves, distances, calibration, corruptions, comparison."""

import dataclasses
import re
from collections import Counter

import pytest

from robustcls.evaluation.measures.calibration.record import Reliability
from robustcls.evaluation.measures.minimum.record import MinimumNorm
from robustcls.evaluation.measures.minimum.section import Line
from robustcls.reporting import render
from robustcls.results.comparison import held
from robustcls.results.overfitting import REMEDY
from robustcls.results.records import Accuracy, Chance, CurvePoint, Evaluation, Spread
from robustcls.results.statistics import wilson
from tests.helpers.report_page import Element, read, shown_text
from tests.helpers.sample_evaluation import CORRUPTIONS, sample_evaluation

HOSTILE = "</script><img src=x onerror=alert(1)>"
MEASURED = ["curves", "minimum", "calibration", "corruptions"]
TITLES = ["Security curves", "Security curves in other norms", "Minimum perturbation", "Calibration", "Corruptions"]
LEFT_OUT = {"curve": None, "other_curves": None, "minimum": None, "calibration": None, "corruptions": None}


def sample(name: str = "model", **options: object) -> Evaluation:
    return sample_evaluation(name, examples=0, training=False, checks=False, **options)


def pair(**options: object) -> list[Evaluation]:
    return [sample("standard", clean=0.93, robust=0.02, **options), sample("adversarial", seed=1, **options)]


def show(*evaluations: Evaluation, sections: list[str] | None = None) -> str:
    return render(evaluations, sections=sections or [*MEASURED, "comparison"])


def section(html: str, slug: str) -> Element:
    return next(e for e in read(html) if e.tag == "section" and e.get("id") == slug)


def below(element: Element):
    for child in element.children:
        yield child
        yield from below(child)


def rows_of(html: str, label: str) -> list[list[str]]:
    """Return the texts of the rows of the table in the box with this label, without the header."""
    box = next(e for e in read(html) if e.get("role") == "region" and e.get("aria-label") == label)
    return [[cell.text for cell in row.children] for row in below(box) if row.tag == "tr"][1:]


def test_sections_stand_in_the_order_of_the_report():
    slugs = [e.get("id") for e in read(render(pair())) if e.tag == "section"]
    wanted = ["accuracy", "curves", "attacks", "classes", "minimum", "calibration", "corruptions", "diagnostics"]
    places = [slugs.index(slug) for slug in [*wanted, "gallery", "sanity", "comparison", "training", "limits"]]
    assert places == sorted(places)


@pytest.mark.parametrize("slug", MEASURED)
def test_what_is_absent_is_not_run_with_its_reason_and_never_a_pass(slug):
    bare = sample(measured=False)
    inside = section(show(bare), slug)
    assert "○ not run" in inside.text
    assert "✓" not in inside.text
    assert not any(e.tag == "svg" for e in below(inside))
    bare.not_run[slug] = f"left out by --option 0 {HOSTILE}"
    html = show(bare)
    assert f"left out by --option 0 {HOSTILE}" in section(html, slug).text
    assert not any(e.tag == "img" for e in read(html))


@pytest.mark.parametrize("slug", MEASURED)
def test_a_model_without_a_part_stands_beside_one_that_has_it(slug):
    first, second = pair()
    second = dataclasses.replace(second, **LEFT_OUT)
    inside = section(show(first, second), slug)
    assert any(e.tag == "svg" for e in below(inside))
    lines = [e.text for e in below(inside) if e.get("class") == "notrun"]
    assert lines
    assert all("adversarial:" in line and "standard" not in line for line in lines)


def test_limits_list_what_was_left_out_and_nothing_else():
    bare = dataclasses.replace(sample(measured=False), not_run={"minimum": "left out by --minimum-n 0"})
    listed = {row[1]: row for row in rows_of(show(bare, sections=["limits"]), "What was not tested")}
    assert set(TITLES) < set(listed)
    assert all(row[0] == "○ not run" and row[2] for row in listed.values())
    assert listed["Minimum perturbation"][2] == "left out by --minimum-n 0"
    assert listed["Comparison"][2].startswith("one evaluation was given")
    full = rows_of(show(*pair(), sections=["limits"]), "What was not tested")
    assert not {*TITLES, "Comparison", "Attacks", "Classes"} & {row[1] for row in full}


def test_limits_name_the_model_that_lacks_a_part_and_the_profile():
    first, second = pair()
    second = dataclasses.replace(second, calibration=None, profile="full")
    html = show(first, second, sections=["limits"])
    reasons = [row[2] for row in rows_of(html, "What was not tested") if row[1] == "Calibration"]
    assert len(reasons) == 1
    assert reasons[0].endswith("(adversarial)")
    assert re.search(r"Profile\s*standard.*Profile\s*full", shown_text(html), re.DOTALL)


def test_checks_that_were_left_out_are_listed_beside_those_that_ran():
    evaluation = sample_evaluation(examples=0)
    evaluation.not_run["diagnostics"] = "left out by --checks passive (--profile quick)"
    listed = {row[1]: row[2] for row in rows_of(show(evaluation, sections=["limits"]), "What was not tested")}
    assert listed["Self-checks with attacks of their own"] == "left out by --checks passive (--profile quick)"
    assert "Self-checks" not in listed


def test_what_a_budget_reduced_is_listed_and_nothing_else():
    first, second = pair()
    assert "fewer samples" not in shown_text(show(first, second, sections=["limits"]))
    second.reduced["other_curves"] = "reduced from n = 100 to n = 9 to keep the budget of <5> minutes"
    html = show(first, second, sections=["limits"])
    (row,) = rows_of(html, "What was measured on fewer samples")
    assert row[0] == "Security curves in other norms"
    assert row[1].startswith("reduced from n = 100 to n = 9 to keep the budget of <5> minutes (")


# Security curves


def test_each_norm_has_one_panel_that_holds_all_models():
    inside = section(show(*pair()), "curves")
    assert [e.text for e in below(inside) if e.tag == "h3"] == ["linf", "l2", "l1"]
    drawn = [e.text for e in below(inside) if e.tag == "svg"]
    assert len(drawn) == 3
    assert all("standard" in one and "adversarial" in one and "1 of 10" in one for one in drawn)
    assert ["eps = 8/255" in one for one in drawn] == [True, False, False]


def test_every_point_of_a_curve_is_in_the_data_behind_it():
    evaluation = sample()
    rows = rows_of(show(evaluation), "Data: robust accuracy against eps, linf")
    assert [row[1] for row in rows] == [point.eps_text for point in evaluation.curve]
    assert [row[3] for row in rows] == [f"{point.robust.accuracy:.1%}" for point in evaluation.curve]
    at_eps = next(row for row in rows if row[1] == "8/255")
    assert int(at_eps[6]) == evaluation.robust.correct


def test_a_curve_says_where_it_reaches_zero_or_that_it_does_not():
    evaluation = sample()
    evaluation.curve = [CurvePoint(e / 255, f"{e}/255", Accuracy.of(c, 400)) for e, c in ((0, 330), (8, 90), (64, 3))]
    first = rows_of(show(evaluation), "How the curves in linf were measured")[0]
    assert first[2] == "near 0%: 0.8% at eps = 64/255"
    evaluation.curve.pop()
    html = show(evaluation)
    assert rows_of(html, "How the curves in linf were measured")[0][2].endswith("still 22.5% at eps = 8/255")
    assert "gradient masking" in section(html, "curves").text


def test_a_curve_without_class_names_draws_no_chance_line():
    evaluation = sample()
    evaluation.model.classes = []
    inside = section(show(evaluation), "curves")
    assert "1 of" not in " ".join(e.text for e in below(inside) if e.tag == "svg")


def test_an_attack_that_broke_off_is_named_at_its_point():
    rows = rows_of(show(sample()), "Data: robust accuracy against eps, l1")
    assert [i for i, row in enumerate(rows) if row[-1] != "none"] == [len(rows) - 2]
    assert "out of memory" in rows[-2][-1]


# Minimum perturbation


def test_distances_of_a_row_are_the_smallest_that_hold_its_share():
    evaluation = sample()
    found = evaluation.minimum[0]
    rows = rows_of(show(evaluation), "Data: share of samples with an adversarial example within a distance, linf")
    ranked = sorted(distance for distance in found.distance if distance is not None)
    half = next(row for row in rows if row[2] == "50%")
    assert half[3] == f"{ranked[found.n // 2 - 1]:.4f}"
    beyond = [row for row in rows if row[3] == "beyond what was found"]
    assert len(beyond) == sum(-(-step * found.n // 20) > len(ranked) for step in range(1, 21)) > 0


def test_censored_samples_stay_in_n_and_a_censored_quartile_is_not_a_gap():
    distance = [0.0, 0.01, 0.02, None, None, None, None, None]
    found = MinimumNorm("linf", "fab_t", "eight", 8, list(range(8)), distance, 5, 0.01, None, None)
    evaluation = dataclasses.replace(sample(), minimum=[found])
    html = show(evaluation)
    row = rows_of(html, "Quartiles of the smallest distance, linf")[0]
    assert row[3:6] == ["0.0100", "beyond what was found", "beyond what was found"]
    assert row[6:9] == [f"{3 / 8:.1%}", "1", "5"]
    assert "not measured" not in section(html, "minimum").text
    assert "5 of 8" in next(e.text for e in read(html) if e.tag == "svg" and "distance" in e.text)
    assert Line(0, "minimum.0", found).within(0.015) == 2


def failed(norm: str) -> MinimumNorm:
    """Return the record that `measure_minimum` makes of a failed attack."""
    return MinimumNorm(norm, "fab_t", "five", 5, [], [], 0, error="RuntimeError: no gradient")


def test_an_attack_that_broke_off_is_not_measured_and_draws_no_curve():
    evaluation = sample()
    evaluation.minimum = [failed("linf"), evaluation.minimum[1], MinimumNorm("l1", "fab_t", "none", 0, [], [], 0)]
    html = show(evaluation)
    row = rows_of(html, "Quartiles of the smallest distance, linf")[0]
    assert row[3:9] == ["not measured: RuntimeError: no gradient"] * 6
    assert rows_of(html, "Quartiles of the smallest distance, l1")[0][3:8] == ["not measured"] * 5
    drawn = [e.text for e in below(section(html, "minimum")) if e.tag == "svg"]
    assert len(drawn) == 1
    assert "l2" in drawn[0]
    assert re.findall(r"\b(?:NaN|nan|None|inf)\b", shown_text(html)) == []


def test_minimum_perturbations_that_all_broke_off_are_not_run():
    html = show(dataclasses.replace(sample(), minimum=[failed("linf")]), sections=["minimum", "limits"])
    assert "○ not run" in section(html, "minimum").text
    listed = {row[1]: row[2] for row in rows_of(html, "What was not tested")}
    assert listed["Minimum perturbation"] == "fab_t failed: RuntimeError: no gradient"


def test_the_comparison_does_not_call_an_attack_that_broke_off_robust():
    first, second = pair()
    failure = failed("linf")
    failure.attack = first.minimum[0].attack
    second.minimum[0] = failure
    rows = {row[0]: row[1:] for row in rows_of(show(first, second), "Models side by side")}
    cells = next(row for key, row in rows.items() if "linf" in key)
    assert cells == [f"{first.minimum[0].median:.4f}", "not measured: RuntimeError: no gradient"]


# Calibration


def test_calibration_shows_both_errors_with_bins_and_counts():
    evaluation = sample()
    html = show(evaluation)
    rows = rows_of(html, "Calibration errors")
    for row, found in zip(rows, (evaluation.calibration.clean, evaluation.calibration.adversarial), strict=True):
        assert row[6:8] == [f"{found.ece:.3f}", str(len(found.bins))]
        assert float(row[5]) == pytest.approx(100 * (found.confidence - found.accuracy), abs=0.051)
    counts = [int(row[2]) for row in rows_of(html, "Data: reliability of model, images under attack")]
    assert sum(counts) == len(evaluation.samples)


def test_empty_bins_and_groups_are_said_to_be_empty():
    evaluation = sample()
    bins = [dataclasses.replace(one, n=0, confidence=None, accuracy=None) for one in evaluation.calibration.clean.bins]
    bins[-1] = dataclasses.replace(bins[-1], n=400, confidence=1.0, accuracy=1.0)
    evaluation.calibration.clean = Reliability(400, 1.0, 1.0, 0.0, bins, Spread.of([1.0] * 400), Spread(0))
    html = show(evaluation)
    assert [row[-1] for row in rows_of(html, "Data: reliability of model, clean images")] == ["empty"] * 14 + ["100.0%"]
    assert rows_of(html, "Confidence when correct and when wrong")[0][3] == "no sample"


# Corruptions


def test_corruptions_are_a_table_by_severity_in_the_four_groups():
    evaluation = sample()
    rows = rows_of(show(evaluation), "Accuracy of model by corruption and severity")
    assert [row[0] for row in rows if len(row) == 1] == ["Noise", "Blur", "Weather", "Digital"]
    body = {row[0]: row[1:] for row in rows if len(row) > 1}
    assert len(body) == len(CORRUPTIONS) + 1
    fog = [one.accuracy.accuracy for one in evaluation.corruptions.results if one.name == "fog"]
    assert body["Fog"] == [*(f"{share:.1%}" for share in fog), f"{sum(fog) / 5:.1%}"]
    assert body["Mean over all"][-1] == f"{evaluation.corruptions.mean:.1%}"


def test_corruptions_carry_intervals_and_leave_room_for_what_is_missing():
    evaluation = sample()
    results = evaluation.corruptions.results
    results[0].name = HOSTILE
    del results[3]
    html = show(evaluation)
    rows = rows_of(html, "Corruptions of model with intervals")
    low, high = wilson(results[1].accuracy.correct, results[1].accuracy.total)
    assert rows[1][3:5] == [f"{low:.1%}", f"{high:.1%}"]
    assert "not measured" in section(html, "corruptions").text
    assert any(row[0] == "Other" for row in rows_of(html, "Accuracy of model by corruption and severity"))
    assert not any(e.tag == "img" for e in read(html))


@pytest.mark.parametrize("source", ["made here by the published definitions", "published files in CIFAR-10-C"])
def test_clean_accuracy_beside_corruptions_carries_its_own_n(source):
    evaluation = sample()
    evaluation.corruptions.source = source
    evaluation.corruptions.clean = Accuracy.of(310, 377)
    text = " ".join(section(show(evaluation), "corruptions").text.split())
    assert ("clean, on the same n = 377 samples" in text) == source.startswith("made here")
    assert ("on n = 377 samples of the evaluation, which may be other samples" in text) != source.startswith(
        "made here"
    )


def test_the_range_over_severities_is_one_of_accuracy():
    evaluation = sample()
    html = show(evaluation)
    row = next(row for row in rows_of(html, "Data: mean accuracy by corruption") if row[0] == "Fog")
    shares = [one.accuracy.accuracy for one in evaluation.corruptions.results if one.name == "fog"]
    assert row[3:] == [f"{min(shares):.1%}", f"{max(shares):.1%}"]
    heads = [e.text for e in below(section(html, "corruptions")) if e.tag == "th"]
    assert {"Lowest accuracy", "Highest accuracy"} < set(heads)
    assert not any("ildest" in head for head in heads)


# Attacks and limits


def test_which_samples_the_attacks_met_is_said_as_it_was():
    survivors = "each on the samples that were still classified correctly"
    everyone = "each on every sample whose clean image is classified correctly"
    texts = {alone: section(show(sample(alone=alone), sections=["attacks"]), "attacks").text for alone in (True, False)}
    assert (survivors in texts[False], everyone in texts[False]) == (True, False)
    assert (survivors in texts[True], everyone in texts[True]) == (False, True)
    mixed = sample()
    mixed.attacks[1].alone = None
    text = section(show(mixed, sections=["attacks"]), "attacks").text
    assert "attacks with an accuracy alone on every sample" in text
    assert "the others only on the samples that were still" in text


def test_only_robust_accuracy_is_said_to_rest_on_the_ball():
    text = section(show(sample(), sections=["limits"]), "limits").text
    assert "Robust accuracy covers only perturbations inside the stated ball" in text
    assert "The verdict rests" not in text


# Comparison


def test_one_model_is_not_compared():
    text = section(show(sample()), "comparison").text
    assert "○ not run one evaluation was given" in text


def test_paired_differences_and_agreement_are_those_of_the_samples():
    first, second = pair()
    html = show(first, second)
    robust = next(row for row in rows_of(html, "Paired differences") if row[1] == "robust")
    assert float(robust[2]) == pytest.approx(100 * (second.robust.accuracy - first.robust.accuracy), abs=0.051)
    only = [
        sum(held(a) > held(b) for a, b in zip(x.samples, y.samples, strict=True))
        for x, y in ((first, second), (second, first))
    ]
    assert [int(cell) for cell in robust[4:6]] == only
    agreement = [int(cell.replace(",", "")) for cell in rows_of(html, "Agreement under attack")[0][1:]]
    assert sum(agreement[:4]) == agreement[4] == len(first.samples)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_classes_of_the_comparison_are_drawn_within_bounds(classes):
    first, second = pair(n=600, classes=classes)
    html = show(first, second, sections=["comparison"])
    rows = rows_of(html, "Data: robust accuracy by class, model by model")
    assert len(rows) == min(20, len({one.label for one in first.samples}))
    differences = [float(row[4]) for row in rows]
    assert differences == sorted(differences, reverse=True)
    for row in rows:
        low, high = map(float, row[5].split(" to "))
        assert low <= float(row[4]) <= high


def test_measures_on_other_samples_are_not_put_side_by_side():
    first, second = pair()
    second.minimum[0].index = [i + 1 for i in second.minimum[0].index]
    second.corruptions.n -= 1
    second.calibration = None
    rows = {row[0]: row[1:] for row in rows_of(show(first, second), "Models side by side")}
    assert next(row for key, row in rows.items() if "corruptions" in key) == ["not on the same samples"] * 2
    assert next(row for key, row in rows.items() if "linf" in key) == ["not on the same samples"] * 2
    assert rows["Calibration error (ECE), clean images"][1] == "not measured"


def test_unlike_evaluations_are_refused_with_the_reason():
    first, second = pair()
    second.data.sha256 = "00"
    html = show(first, second, sections=["comparison"])
    assert "Not comparable: the data differ" in shown_text(html)
    assert "McNemar" not in shown_text(html)
    assert not any(e.tag == "svg" for e in read(html))


def test_hostile_texts_stay_inert_and_ids_are_unique():
    first, second = pair()
    first.model.name = HOSTILE
    first.threat.norm = second.threat.norm = f'"x{HOSTILE}'
    first.model.classes = second.model.classes = [f"{HOSTILE}{i}" for i in range(10)]
    for found in (*first.minimum, *first.other_curves):
        found.rule = HOSTILE
    first.minimum[0].attack = first.minimum[1].error = first.other_curves[0].attacks[0] = HOSTILE
    first.curve[0].eps_text = first.curve[1].error = first.calibration.rule = HOSTILE
    first.corruptions.rule = first.corruptions.source = first.corruptions.note = HOSTILE
    elements = read(render([first, second]))
    assert [e for e in elements if any(name.startswith("on") for name in e.attributes)] == []
    assert not any(e.tag == "img" for e in elements)
    assert max(Counter(e.get("id") for e in elements if e.get("id")).values()) == 1


@pytest.mark.parametrize("images", [50, 5000])
def test_robust_overfitting_is_told_with_a_remedy_where_the_images_can_show_it(images):
    evaluation = sample_evaluation("model", examples=0, checks=False)
    assert evaluation.training is not None
    first, last = evaluation.training.epochs[0], evaluation.training.epochs[-1]
    first.val_robust, last.val_robust, last.train_robust = 0.5, 0.44, 0.7
    for one in evaluation.training.epochs[1:-1]:
        one.val_robust = None  # these epochs were not validated
    evaluation.training.chance = Chance(images, 0.1)
    text = " ".join(shown_text(show(evaluation, sections=["training"])).split())
    assert "6.0 points between the best epoch (50.0%) and the last" in text
    assert "+26.0 points of robust accuracy in the last epoch; training accuracy is under pgd(steps=10)" in " ".join(
        text.split()
    )
    assert (REMEDY in text) == (images == 5000)
