"""The report as text: numbers, references, hostile input, sizes."""

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from robustcls.core.errors import InputError
from robustcls.reporting import images, render, report
from robustcls.reporting.context import look_up
from robustcls.reporting.scrub import without_arrays
from robustcls.results.policy import Policy
from robustcls.results.records import Evaluation
from tests.helpers.report_page import Element, read, shown_text
from tests.helpers.sample_evaluation import sample_evaluation

HOSTILE = "</script><img src=x onerror=alert(1)>"


def robust_pair() -> list[Evaluation]:
    """Return evaluations of a broken and of a robust model on the same samples."""
    return [sample_evaluation("standard", clean=0.93, robust=0.02), sample_evaluation("adversarial", seed=1)]


CASES = {
    "one": lambda: [sample_evaluation()],
    "two": robust_pair,
    "three": lambda: [sample_evaluation(n=60, seed=seed, examples=0, training=False) for seed in range(3)],
    "differ": lambda: [sample_evaluation(examples=0, training=False), sample_evaluation(n=300, examples=2)],
    "bare": lambda: [sample_evaluation(examples=0, training=False, alone=False, checks=False, measured=False)],
    "binary": lambda: [sample_evaluation(classes=2, training=False)],
    "thousand": lambda: [sample_evaluation(classes=1000, n=600, training=False)],
    "tiny": lambda: [sample_evaluation(n=5, examples=2)],
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[list[Evaluation], str, list[Element]]:
    evaluations = CASES[request.param]()
    html = render(evaluations, policy=Policy(0.75, 0.40))
    return evaluations, html, read(html)


def test_shown_numbers_are_the_numbers_of_the_evaluation(case):
    evaluations, _, elements = case
    shown = [element for element in elements if element.get("class") == "n"]
    assert len([element for element in shown if element.get("data-path")]) > 40
    for element in shown:
        spec = element.get("data-format")
        if path := element.get("data-path"):
            value = look_up(evaluations[int(element.get("data-model"))], path)
        else:
            assert element.get("data-derived")
            value = float(element.get("data-value"))
            value = int(value) if spec.endswith("d") else value
        assert element.text == format(value, spec), element


def test_ids_are_unique_and_references_resolve(case):
    _, html, elements = case
    ids = Counter(element.get("id") for element in elements if "id" in element.attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    wanted = set(re.findall(r'href="#([^"]*)"', html)) | set(re.findall(r"url\(#([^)]*)\)", html))
    for element in elements:
        for name in ("aria-labelledby", "aria-describedby"):
            wanted |= set(element.get(name).split())
    assert wanted <= set(ids)


def test_no_placeholder_is_shown(case):
    _, html, _ = case
    assert re.findall(r"\b(?:NaN|nan|undefined|None|inf)\b", shown_text(html)) == []


def test_scroll_boxes_have_names_of_their_own(case):
    labels = Counter(element.get("aria-label") for element in case[2] if element.get("role") == "region")
    assert max(labels.values()) == 1


def test_confusion_sums_to_the_samples(case):
    evaluations, _, elements = case
    cells = [int(e.text.replace(",", "")) for e in elements if e.get("data-derived") == "confusion"]
    assert sum(cells) == sum(len(evaluation.samples) for evaluation in evaluations)


def test_figures_are_named_and_hold_their_data(case):
    figures = [element for element in case[2] if element.get("class") == "plot"]
    assert figures
    for one in figures:
        inside = list(_below(one))
        drawn = next(element for element in inside if element.tag == "svg")
        assert drawn.get("role") == "img"
        assert {"title", "desc", "table"} <= {element.tag for element in inside}


def test_overlap_agrees_with_kills():
    evaluation = sample_evaluation()
    elements = read(render([evaluation]))
    cells = [int(e.text.replace(",", "")) for e in elements if e.get("data-derived") == "overlap"]
    side = len(evaluation.attacks)
    for i, attack in enumerate(evaluation.attacks):
        kills = cells[i * (side + 1)]
        assert kills == evaluation.clean.correct - attack.alone.correct
        assert attack.unique <= kills
        assert all(cells[i * side + j] == cells[j * side + i] <= kills for j in range(side))


def test_same_evaluations_give_the_same_bytes(case):
    evaluations, html, _ = case
    again = [Evaluation.from_json(evaluation.to_json()) for evaluation in evaluations]
    assert render(again, policy=Policy(0.75, 0.40)) == html


def test_embedded_json_is_the_evaluation():
    evaluation = sample_evaluation()
    html = render([evaluation])
    embedded = re.search(r'id="evaluation-0">(.*?)</script>', html, re.DOTALL)[1]
    assert not set("<>&") & set(embedded)
    found = Evaluation.from_json(embedded)
    assert found.samples == evaluation.samples
    assert found.gallery == evaluation.gallery
    assert found.robust == evaluation.robust


def test_two_models_are_compared_on_the_same_samples():
    html = render(robust_pair())
    text = shown_text(html)
    assert "adversarial still classifies" in text
    assert "standard falls to" in text
    assert "McNemar p < 0.0001" in text
    difference = next(e for e in read(html) if e.get("data-derived") == "difference of robust accuracy")
    first, second = robust_pair()
    expected = 100 * (second.robust.accuracy - first.robust.accuracy)
    assert float(difference.text) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: dataclasses.replace(e, data=dataclasses.replace(e.data, sha256="00")), "the data differ"),
        (lambda e: dataclasses.replace(e, threat=dataclasses.replace(e.threat, eps=0.1)), "the threat models differ"),
        (lambda e: dataclasses.replace(e, attacks=e.attacks[:-1]), "the attacks or their options differ"),
        (lambda e: dataclasses.replace(e, samples=e.samples[:-1]), "the sample indices or labels differ"),
    ],
)
def test_unlike_evaluations_are_shown_and_not_compared(change, reason):
    first, second = robust_pair()
    html = render([first, change(second)], sections=["verdict", "accuracy", "limits"])
    assert f"Not comparable: {reason}" in shown_text(html)
    assert "McNemar" not in shown_text(html)
    assert not any("difference" in e.get("data-derived") for e in read(html))
    assert {e.get("data-model") for e in read(html) if e.get("data-path") == "robust.accuracy"} == {"0", "1"}


def test_missing_parts_are_not_run_and_never_a_pass():
    text = shown_text(render(CASES["bare"](), policy=Policy(0.5, 0.1)))
    for reason in (
        "contains no images",
        "no training history",
        "ran no self-check",
        "only on the samples that were still robust",
    ):
        assert reason in text
    assert "only one eps was attacked" in text
    assert "✓ pass" not in text


@pytest.mark.slow
def test_evaluation_without_samples_or_attacks_renders():
    evaluation = dataclasses.replace(sample_evaluation(), samples=[], attacks=[])
    text = shown_text(render([evaluation]))
    assert "contains no records of individual samples" in text
    assert "contains no attack" in text
    assert "do not" not in text or "Not comparable" not in text
    assert "hold no samples to pair" in shown_text(render([evaluation, evaluation]))


def test_hostile_names_stay_inert():
    evaluation = sample_evaluation(HOSTILE)
    evaluation.model.classes = [f"{HOSTILE}{i}" for i in range(9)] + ["$\\frac$"]
    evaluation.checks[0].message = HOSTILE
    evaluation.attacks[0].options = {HOSTILE: HOSTILE}
    evaluation.provenance.config = {HOSTILE: {"a.b": 1.5, "inner": [HOSTILE]}}
    evaluation.gallery.rule = HOSTILE
    elements = read(render([evaluation], title=HOSTILE))
    assert [e for e in elements if any(name.startswith("on") for name in e.attributes)] == []
    assert [e.get("src")[:20] for e in elements if e.tag == "img" and not e.get("src").startswith("data:image/")] == []
    assert Counter(e.tag for e in elements)["script"] == 2


def test_names_that_are_not_utf8_are_written(tmp_path: Path):
    evaluation = sample_evaluation(examples=0, training=False)
    evaluation.model.classes[3] = "caf\udce9"
    evaluation.data.note = "1 file was skipped: \udce9.png"
    evaluation.provenance.config = {"\udce9": "\udce9"}
    text = report(evaluation, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "caf?" in text


@pytest.mark.slow
def test_of_several_models_each_gallery_says_whether_its_images_were_withheld():
    redacted, full = without_arrays(sample_evaluation()), sample_evaluation()
    assert shown_text(render([redacted])).count("withheld on request") == 1
    html = render([redacted, full])
    assert shown_text(html).count("withheld on request") == 1
    assert html.count("data:image/png") > 5


def test_redacted_report_holds_no_pixels():
    html = render([sample_evaluation()], redact_images=True)
    assert '="data:image' not in html
    assert "withheld on request" in shown_text(html)
    again = Evaluation.from_json(re.search(r'id="evaluation-0">(.*?)</script>', html, re.DOTALL)[1])
    assert all(example.clean.decode().size == 0 for example in again.gallery.examples)


@pytest.mark.slow
@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "noisy"])
@pytest.mark.parametrize("size", [32, 224])
def test_forty_examples_stay_small_and_each_picture_is_encoded_once(size, smooth, monkeypatch):
    """Encoding takes most of the time. To choose a quality, three more examples are encoded, at most once for each quality."""
    evaluation = sample_evaluation(size=size, examples=40, smooth=smooth, n=1000)
    encode, encoded = images._encode, []
    monkeypatch.setattr(images, "_encode", lambda *given: encoded.append(given) or encode(*given))
    html = render([evaluation])
    pictures = 3 + len(evaluation.gallery.examples[0].maps)
    tried = 3 * pictures * len(images._QUALITIES)
    assert 40 * pictures <= len(encoded) <= 40 * pictures + (tried if size == 224 else 0)
    assert len(html.encode()) < 5_000_000
    assert html.count("<article") == 40


def test_content_security_policy_allows_only_our_script():
    policy = next(e.get("content") for e in read(render([sample_evaluation()])) if e.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "img-src data: blob:" in policy
    assert re.search(r"script-src 'sha256-[\w+/]+=*'(;|$)", policy)
    assert "http" not in policy


def test_report_writes_the_file(tmp_path: Path):
    path = report(sample_evaluation(examples=0), tmp_path / "deep" / "report.html", title="A title")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(path.parent.iterdir()) == [path]


def test_own_sections_are_found_by_dotted_name():
    html = render([sample_evaluation(examples=0)], sections=["verdict", "tests.helpers.sample_section:speed"])
    assert [e.get("id") for e in read(html) if e.tag == "section"] == ["verdict", "speed"]
    assert '<span class="n" data-model="0" data-path="provenance.seconds" data-format=".0f">184</span>' in html


def test_unknown_section_and_no_evaluation_are_refused():
    with pytest.raises(InputError, match="did you mean 'verdict'"):
        render([sample_evaluation(examples=0)], sections=["verdit"])
    with pytest.raises(InputError, match="needs an evaluation"):
        render([])


def test_renders_without_torch_and_imports_lightly(tmp_path: Path):
    source = tmp_path / "evaluation.json"
    sample_evaluation().save(source)
    code = f"""
import sys
sys.modules["torch"] = None
import robustcls.reporting
heavy = {{"numpy", "matplotlib", "jinja2", "PIL"}} & set(sys.modules)
assert not heavy, heavy
from robustcls.results.records import Evaluation
robustcls.reporting.report(Evaluation.load({str(source)!r}), {str(tmp_path / "report.html")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").stat().st_size > 100_000


def test_old_json_without_optional_parts_renders():
    whole = json.loads(sample_evaluation(alone=False).to_json())
    for part in ("gallery", "training"):
        del whole[part]
    assert "<h2" in render([Evaluation.from_json(json.dumps(whole))])


def _below(element: Element):
    for child in element.children:
        yield child
        yield from _below(child)


def test_a_tie_names_both_models():
    pair = [sample_evaluation("one", examples=0), sample_evaluation("other", examples=0)]
    assert "one and other cannot be told apart" in shown_text(render(pair, sections=["verdict"]))


def test_a_failed_check_is_named_without_thresholds():
    evaluation = sample_evaluation(examples=0)
    evaluation.checks[0].status = "fail"
    assert f"check {evaluation.checks[0].id} failed" in shown_text(render([evaluation], sections=["verdict"]))


def test_a_check_that_was_not_run_is_among_the_limits():
    evaluation = sample_evaluation(examples=0)
    text = shown_text(render([evaluation], sections=["limits"]))
    assert "Self-check transfer" in text


def test_the_intended_use_is_what_its_owner_states():
    evaluation = sample_evaluation(examples=0)
    assert "not stated" in shown_text(render([evaluation], sections=["threat"]))
    evaluation.intended_use = "sorting parcels <b>"
    assert "sorting parcels <b>" in shown_text(render([evaluation], sections=["threat"]))
