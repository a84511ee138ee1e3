"""The sections of the report on attribution maps: their stability and their sanity checks."""

import dataclasses
import json
import re
from collections import Counter

import pytest

from robustcls.reporting import render
from robustcls.reporting.context import look_up
from robustcls.results.records import Check, Evaluation, Likeness, MethodMeasures, Spread
from tests.helpers.report_page import Element, read, shown_text
from tests.helpers.sample_evaluation import METHODS, sample_evaluation

HOSTILE = "</script><img src=x onerror=alert(1)>"
SECTIONS = ["stability", "sanity"]


def show(*evaluations: Evaluation) -> str:
    return render(evaluations, sections=SECTIONS)


def section(html: str, slug: str) -> Element:
    return next(e for e in read(html) if e.tag == "section" and e.get("id") == slug)


def below(element: Element):
    for child in element.children:
        yield child
        yield from below(child)


def table_rows(html: str, slug: str, label: str) -> list[list[str]]:
    """Return the texts in the body of the table whose box has a label that begins like this."""
    box = next(e for e in below(section(html, slug)) if e.get("aria-label").startswith(label))
    rows = [[cell.text for cell in row.children if cell.tag == "td"] for row in below(box) if row.tag == "tr"]
    return [row for row in rows if row]


def part_of(evaluation: Evaluation, **changes: object) -> Evaluation:
    return dataclasses.replace(evaluation, explanations=dataclasses.replace(evaluation.explanations, **changes))


def one_method(**fields: object) -> Evaluation:
    return part_of(sample_evaluation(), methods=[MethodMeasures("occlusion", "", 2.5, **fields)])


@pytest.mark.parametrize("slug", SECTIONS)
def test_both_sections_stand_between_gallery_and_training(slug):
    slugs = [e.get("id") for e in read(render([sample_evaluation()])) if e.tag == "section"]
    assert slugs.index("gallery") < slugs.index(slug) < slugs.index("training")


def test_every_median_is_shown_and_is_the_number_of_the_evaluation():
    evaluation = sample_evaluation()
    shown = [e for e in read(show(evaluation)) if e.get("data-path").startswith("explanations.")]
    for element in shown:
        value = look_up(evaluation, element.get("data-path"))
        assert element.text == format(value, element.get("data-format"))
    paths = {element.get("data-path") for element in shown}
    for i, method in enumerate(evaluation.explanations.methods):
        at = f"explanations.methods.{i}"
        spreads = {f"{at}.quality.{key}": spread for key, spread in method.quality.items()}
        for j, group in enumerate(method.likeness):
            assert f"{at}.likeness.{j}.n" in paths
            spreads |= {f"{at}.likeness.{j}.measures.{key}": spread for key, spread in group.measures.items()}
        wanted = {f"{path}.{part}" for path, one in spreads.items() if one.n for part in ("median", "q1", "q3")}
        checked = {f"{at}.checks.{j}.measured" for j, one in enumerate(method.checks) if one.measured is not None}
        assert wanted | checked <= paths


def test_each_method_has_the_attack_and_both_controls():
    rows = table_rows(show(sample_evaluation()), "stability", "Similarity of the maps")
    assert Counter(row[0] for row in rows) == dict.fromkeys(METHODS, 4)
    groups = {"attack,prediction unchanged", "attack,prediction changed", "benign noise,same norm", "random map"}
    assert {row[1] for row in rows} == groups


def test_groups_without_samples_show_no_number_and_small_ones_say_so():
    evaluation = sample_evaluation()
    rows = table_rows(show(evaluation), "stability", "Similarity of the maps")
    flipped = next(row for row in rows if row[0] == "gradcam" and row[1].endswith(",prediction changed"))
    assert flipped[2:] == ["0"] + ["no sample"] * 5
    for row in rows:
        assert row[2].endswith("small") == (0 < int(row[2].removesuffix("small")) < 30)


def test_own_number_of_samples_is_shown_where_a_measure_is_not_defined_on_all():
    evaluation = sample_evaluation()
    rows = table_rows(show(evaluation), "stability", "Similarity of the maps")
    (row,) = (row for row in rows if row[0] == "guided_gradcam" and row[1] == "random map")
    n = evaluation.explanations.n
    assert row[2] == str(n)
    assert [text.endswith(f"n = {n - 2}") for text in row[3:]] == [False, False, True, False, False]


def test_groups_and_measures_that_are_missing_are_not_measured():
    spread = Spread(40, 0.5, 0.4, 0.6)
    html = show(one_method(likeness=[Likeness("adversarial", "kept", 40, {"spearman": spread})]))
    rows = table_rows(html, "stability", "Similarity of the maps")
    assert rows[0][3:] == ["0.50(0.40 to 0.60)"] + ["not measured"] * 4
    assert all(set(row[2:]) == {"not measured"} for row in rows[1:])
    text = shown_text(html)
    assert "Benign noise was not compared" in text
    assert "Random maps were not compared" in text
    assert "benign noise of the same norm" not in text


def test_reading_names_the_controls_that_are_there():
    text = shown_text(show(sample_evaluation()))
    assert "with benign noise of the same norm" in text
    assert "and with a random map" in text
    assert "not compared" not in section(show(sample_evaluation()), "stability").text


def test_failing_method_alone_is_said_by_name():
    html = show(sample_evaluation())
    callouts = [e.text for e in below(section(html, "sanity")) if "callout" in e.get("class")]
    (said,) = (text for text in callouts if text.startswith("✕ fail"))
    assert said.startswith("✕ fail guided_gradcam fails parameter_randomisation, insertion: ")
    assert "weights are shuffled" in said
    assert "no better than the same map at random other places" in said


def test_unknown_failing_check_is_named_without_a_meaning():
    html = show(one_method(checks=[Check("moon", "fail", 1.0, None, "it was full")]))
    said = next(e.text for e in below(section(html, "sanity")) if "callout" in e.get("class"))
    assert said == "✕ fail occlusion fails moon."


def test_badged_method_shows_its_note():
    html = show(sample_evaluation())
    inside = list(below(section(html, "sanity")))
    place = next(i for i, e in enumerate(inside) if e.tag == "h3" and e.text == "guided_gradcam")
    note = inside[place + 1]
    assert "callout" in note.get("class")
    assert "fails the sanity checks of Adebayo" in note.text


def test_checks_that_are_missing_are_not_run_with_a_reason():
    rows = table_rows(show(sample_evaluation()), "sanity", "Checks of the maps of vgg16-pgd by gradcam")
    found = {row[1]: row for row in rows}
    assert len(found) == 7
    for name in ("random_logit", "deletion"):
        assert found[name][0] == "○ not run"
        assert found[name][2] == "not measured"
        assert found[name][4]


def test_method_without_checks_or_quality_never_passes():
    html = show(one_method())
    rows = table_rows(html, "sanity", "Checks of the maps")
    assert {row[0] for row in rows} == {"○ not run"}
    assert "quality of these maps was not measured" in shown_text(html)
    assert "✓ pass" not in shown_text(html)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (None, r"attribution maps were not (compared|tested): run robustcls report --model"),
        ({"methods": []}, "no attribution method supports this model"),
        ({"methods": [], "n": 0}, "the attack changed no sample that the model classifies correctly"),
    ],
    ids=["absent", "no method", "no sample"],
)
def test_absent_explanations_are_not_run_and_never_a_pass(changes, reason):
    evaluation = sample_evaluation(examples=0)
    bare = dataclasses.replace(evaluation, explanations=None) if changes is None else part_of(evaluation, **changes)
    html = show(bare)
    for slug in SECTIONS:
        text = section(html, slug).text
        assert re.search(f"not run {reason}", text)
        assert "✓ pass" not in text
    limits = {row[1]: row for row in table_rows(render([bare]), "limits", "What was not tested")}
    for title in ("Attribution stability", "Attribution sanity"):
        assert limits[title][0] == "○ not run"
        assert re.search(reason, limits[title][2])


def test_limits_do_not_list_what_was_measured():
    rows = table_rows(render([sample_evaluation(examples=0)]), "limits", "What was not tested")
    assert not any(row[1].startswith("Attribution") for row in rows)


def test_each_of_several_evaluations_has_its_part():
    html = show(sample_evaluation("first", n=50), sample_evaluation("second", checks=False))
    for slug in SECTIONS:
        inside = section(html, slug)
        assert [e.text for e in below(inside) if e.tag == "h3"] == ["first", "second"]
        assert inside.text.count("attribution maps were not") == 1
    ids = Counter(e.get("id") for e in read(html) if e.get("id"))
    assert max(ids.values()) == 1


def test_hostile_method_stays_inert():
    evaluation = sample_evaluation()
    method = evaluation.explanations.methods[2]
    method.method = HOSTILE
    method.note = f"fails the sanity checks {HOSTILE}"
    method.checks[1] = Check(HOSTILE, "fail", 0.5, 0.5, HOSTILE)
    method.likeness[0].against = HOSTILE
    evaluation.explanations.rule = evaluation.explanations.attack = HOSTILE
    elements = read(show(evaluation))
    assert [e for e in elements if any(name.startswith("on") for name in e.attributes)] == []
    assert [e for e in elements if e.tag == "img"] == []
    assert Counter(e.tag for e in elements)["script"] == 2


def test_none_is_never_shown():
    empty = {key: Spread(0) for key in ("spearman", "ssim")} | {"cosine": Spread(5)}
    likeness = [Likeness("adversarial", "kept", 5, empty), Likeness("random_map", "", 0)]
    quality = {"infidelity": Spread(0), "insertion": Spread(3), "sensitivity_max": Spread(0)}
    html = show(one_method(likeness=likeness, quality=quality, checks=[Check("insertion", "warn", None, None, "")]))
    assert re.findall(r"\b(?:NaN|nan|undefined|None|inf)\b", shown_text(html)) == []
    assert "no rank correlation was measured" in shown_text(html)
    assert "<svg" not in html


def test_explanations_survive_the_file():
    evaluation = sample_evaluation()
    assert Evaluation.from_json(evaluation.to_json()).explanations == evaluation.explanations
    whole = json.loads(evaluation.to_json())
    del whole["explanations"]
    assert "were not compared" in shown_text(show(Evaluation.from_json(json.dumps(whole))))
