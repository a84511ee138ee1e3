"""The model card and the RobustBench entry."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from robustcls.core.errors import InputError
from robustcls.evaluation.measures.minimum.record import MinimumNorm
from robustcls.reporting import render
from robustcls.reporting.card import model_card, robustbench_info, write_card
from robustcls.reporting.missing import PARTS
from robustcls.results.policy import Policy, judge
from robustcls.results.records import Accuracy, Attack, Check, Rejection, Repeated, Sample, UnderNoise
from tests.helpers.certificates import bounded_evaluation, smoothed_evaluation
from tests.helpers.sample_evaluation import ATTACKS, sample_evaluation

HOSTILE = 'evil\n---\nlicense: mit\n# <img src=x onerror=alert(1)> | [a](https://x.example) `b` @you \x85\u2028 "q" ☃'


def front_matter(card: str) -> list[tuple[str, str, object]]:
    """Return (indent and dash, key, value) of each line; scalars are JSON."""
    head, mark, _ = card.removeprefix("---\n").partition("\n---\n")
    assert mark
    rows = []
    for line in head.split("\n"):
        found = re.fullmatch(r"( *(?:- )?)(?:([a-z_-]+):)?(?: ?(\S.*))?", line)
        assert found, line
        rows.append((found[1], found[2] or "", json.loads(found[3]) if found[3] else None))
    return rows


def whole_autoattack(norm="linf", eps=8 / 255, eps_text="8/255"):
    """Return an evaluation as after the standard suite on all of CIFAR-10."""
    one = sample_evaluation(examples=0)
    one.threat.norm, one.threat.eps, one.threat.eps_text = norm, eps, eps_text
    one.data.n = 10_000
    one.clean, one.robust = Accuracy.of(8_412, 10_000), Accuracy.of(4_567, 10_000)
    one.attacks = [Attack(name, {"restarts": 1}, 9, 0, 0.4567, 0, 0, 0) for name in ATTACKS]
    return one


def test_the_front_matter_is_what_the_hub_reads():
    one = sample_evaluation(examples=0)
    rows = front_matter(model_card(one))
    values = {key: value for _, key, value in rows if value is not None}
    assert values["license"] == "unknown"
    assert values["library_name"] == "pytorch"
    assert values["pipeline_tag"] == "image-classification"
    assert [value for start, key, value in rows if key == "value"][:2] == [one.clean.accuracy, one.robust.accuracy]
    assert ("          ", "split", "test") in rows
    assert ("  - ", "", "adversarial-robustness") in rows
    assert ("  - ", "", "uoft-cs/cifar10") in rows
    assert [key for start, key, _ in rows if not start] == [
        "license", "library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "suites", "said"),
    [
        ("upper bound: fast", {"fast": 2}, "fast, version 2"),
        ("upper bound: fast", {}, "fast, version 1"),  # from before there were two versions
        ("upper bound: fast(version=1)", {"fast": 1}, "fast, version 1"),
        ("upper bound: fast, apgd_reject; failed: square", {"fast": 2}, "fast, version 2, apgd_reject; failed: square"),
        ("upper bound: standard", {"standard": 1}, "standard"),
        ("upper bound: pgd(steps=20, restarts=2)", {}, "pgd(steps=20, restarts=2)"),
        ("upper bound: lab_suite", {"lab_suite": 3}, "lab_suite"),
    ],
)
def test_the_version_of_a_suite_stands_beside_its_name_in_card_and_page(kind, suites, said):
    one = sample_evaluation(examples=0)
    one.robust.kind, one.suites = kind, suites
    assert one.kind_text == f"upper bound: {said}"
    shown = said.replace("_", r"\_")
    assert f"\n- Robust accuracy is: upper bound: {shown}\n" in model_card(one)
    page = render([one], sections=["verdict"])
    assert f"<strong>empirical upper bound</strong> ({said}): a stronger" in page
    one.robust.kind = "clean accuracy: every attack failed: fast"
    assert one.kind_text == one.robust.kind


def test_yaml_reads_it_alike():
    yaml = pytest.importorskip("yaml")
    one = sample_evaluation(HOSTILE, examples=0)
    whole = yaml.safe_load(model_card(one).removeprefix("---\n").partition("\n---\n")[0])
    (entry,) = whole["model-index"]
    assert entry["name"] == HOSTILE
    assert whole["license"] == "unknown"
    (result,) = entry["results"]
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"type": "uoft-cs/cifar10", "name": "cifar10", "split": "test"}
    assert result["metrics"][1]["value"] == one.robust.accuracy


def test_unknown_data_are_no_dataset_of_the_hub():
    one = sample_evaluation(examples=0)
    one.data.name = "folder:signs"
    assert "datasets" not in [key for _, key, _ in front_matter(model_card(one))]
    assert ("          ", "type", "folder:signs") in front_matter(model_card(one))


def test_the_numbers_are_the_evaluations():
    one = sample_evaluation(examples=0)
    card = model_card(one)
    low, high = one.robust.ci95
    assert f"| {one.robust.accuracy:.1%} | {low:.1%} to {high:.1%} | 400 |" in card
    assert "**empirical upper bound**" in card
    assert one.model.sha256 in card
    assert one.data.sha256 in card
    for attack in one.attacks:
        assert f"| {attack.attacked:,} | {attack.broken:,} | {attack.robust_accuracy:.1%} |" in card
    assert "failed: RuntimeError: out of memory" in card
    assert re.search(r"^- `adv`: pgd\(steps=10\)$", card, re.MULTILINE)
    worst = re.search(r"^## Worst class\n\n(\w+): robust accuracy ([\d.]+)%", card, re.MULTILINE)
    label = one.model.classes.index(worst[1])
    ours = [s.clean == s.label == s.adversarial for s in one.samples if s.label == label]
    assert float(worst[2]) == round(100 * sum(ours) / len(ours), 1)


def test_certified_accuracy_is_said_with_what_it_is_of():
    assert "ertified" not in model_card(sample_evaluation(examples=0))
    one = smoothed_evaluation()
    card = model_card(one)
    low, high = one.certified.at(0.25).ci95
    assert f"| Certified accuracy within l2 0.25, lower bound | 80.0% | {low:.1%} to {high:.1%} | 100 |" in card
    assert "lies **between 80.0% and 90.0%**" in card
    assert "contradict" not in card
    assert (
        "Certified model: smoothed(run/ckpt.pt, sigma=0.25), by smoothing with sigma 0.25, 1,000 draws, alpha 0.001"
        in card
    )
    assert ", on n = 100; the intervals cover the choice of the samples" in card
    assert "holds with probability 0.999, for the class that the network gives most often" in card
    assert "no radius above 0.616 can be certified" in card
    assert "There is no certificate" not in card
    named = {value: number for (_, key, value), (_, _, number) in pairwise(front_matter(card)) if key == "name"}
    assert named["Certified accuracy within l2 0.25 (lower bound)"] == 0.8


def test_certificates_and_attacks_at_other_radii_are_no_bracket():
    card = model_card(bounded_evaluation())  # attacked at 0.03, certified up to 0.02
    assert "| Certified accuracy within linf 0.02, lower bound | 30.0% |" in card
    assert "between" not in card.partition("## Model")[0]
    assert "- The certificates do not reach the eps of the attacks\n" in card
    assert "between 30.0% and 90.0%" in model_card(bounded_evaluation(eps=0.02))
    alone = model_card(smoothed_evaluation(attacked=False))
    assert "Certificates and attacks cannot be compared: no attack was run on it" in alone
    other = smoothed_evaluation()
    other.model.name = "run/ckpt.pt"
    card = model_card(other)
    assert "Certificates are left out: the attacks are on" in card
    assert "80.0%" not in card
    assert "- There is no certificate:" in card


def test_a_detector_and_noise_are_said_beside_the_accuracy():
    one = sample_evaluation(examples=0)
    text = model_card(one)
    assert "detector" not in text
    assert "random at prediction" not in text
    one.rejection = Rejection("lab:score", 0.05, 1.0, 100, 5, Accuracy.of(11, 12), 2, 1, 0)
    one.under_noise = UnderNoise(20, 5, Repeated.of([[True, False], [True, True]]), Repeated.of([[True, False]] * 2))
    text = model_card(one)
    assert "a detector, lab:score, which rejects 2 of the unchanged images" in text
    assert "Without the detector, 91.7% of" in text
    assert "the mean of 5 draws. Over 20 single passes, 75.0% [" in text
    assert "from 50.0% to 50.0% from pass to pass" in text


def test_what_was_not_run_is_said():
    one = sample_evaluation(examples=0, training=False, checks=False)
    one.calibration = one.corruptions = None
    one.reduced = {"gallery": "reduced from n = 24 to n = 5"}
    one.not_run = {"corruptions": "left out by --corruptions-n 0 (--profile quick)"}
    card = model_card(one)
    assert "Not run: Corruptions: left out by --corruptions-n 0 (--profile quick)" in card
    assert "Measured on fewer samples: Gallery: reduced from n = 24 to n = 5" in card
    assert "Not run: Calibration: the model's confidence was not recorded" in card
    assert "No self-check was run." in card
    assert "No training history came with the evaluation." in card
    assert "## Calibration" not in card


def test_every_part_that_a_report_would_miss_is_listed():
    bare = sample_evaluation(examples=0, training=False, checks=False, measured=False, alone=False)
    bare.samples = []
    listed = re.findall(r"^- Not run: ([^:]+):", model_card(bare), re.MULTILINE)
    assert listed == [title for key, (title, _, _) in PARTS.items() if key != "attacks"]
    some = sample_evaluation()
    some.not_run["diagnostics"] = "left out by --checks passive"
    assert "Not run: Self-checks with attacks of their own: left out" in model_card(some)
    whole = model_card(sample_evaluation())
    assert "Not run" not in whole
    assert "Failed" not in whole


def test_minimum_perturbations_that_failed_are_said():
    one = sample_evaluation()
    one.minimum[1] = MinimumNorm("l2", "fab_t", "five", 5, [], [], 0, error="RuntimeError: no gradient")
    assert "- Failed: minimum perturbation, l2: RuntimeError: no gradient" in model_card(one)
    del one.minimum[2], one.minimum[0]
    assert r"- Not run: Minimum perturbation: fab\_t failed: RuntimeError: no gradient" in model_card(one)


def test_card_and_policy_name_the_same_worst_class():
    one = sample_evaluation(examples=0)
    held = {0: (1, 2), 1: (10, 20), 2: (9, 10)}  # the first two have equal shares
    kinds = [(label, i < robust) for label, (robust, total) in held.items() for i in range(total)]
    one.samples = [Sample(i, a, a, a if stands else a + 1, None, None) for i, (a, stands) in enumerate(kinds)]
    assert "## Worst class\n\none: robust accuracy 50.0%" in model_card(one)
    reasons = judge(one, Policy(min_class_robust=0.9)).reasons
    assert any("of the worst class, one, 50.0%" in reason for reason in reasons), reasons


def test_the_attacks_met_what_the_card_says():
    whole = "The attacks ran in this order, each on every sample whose clean image is classified correctly; "
    assert whole in model_card(sample_evaluation(examples=0))
    card = model_card(sample_evaluation(examples=0, alone=False))
    assert "The attacks ran in this order, each on the samples that were still classified correctly." in card


def test_hostile_names_are_inert():
    one = sample_evaluation(HOSTILE, examples=0)
    one.model.classes = [HOSTILE] * 10
    one.provenance.command = "robustcls attack ``` \n# heading"
    one.checks = [Check("x|y", "fail", None, None, HOSTILE)]
    card = model_card(one)
    rows = front_matter(card)
    assert [value for _, key, value in rows if key == "license"] == ["unknown"]
    assert HOSTILE in [value for _, key, value in rows if key == "name"]
    body = card.partition("\n---\n")[2]
    assert "<img" not in body
    shown = re.sub(r"^- `\w+`", "-", body.partition("## How to reproduce")[0], flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)(?:\]\(|`)", shown)
    assert "://" not in body
    assert not re.search(r"^(license|---)", body, re.MULTILINE)
    assert len(re.findall(r"^# ", body, re.MULTILINE)) == 1
    assert "````text\nrobustcls attack ```  # heading\n````" in body
    assert r"| x\|y | fail | evil --- license: mit \# &lt;img" in body


def test_no_path_or_user_name_is_in_it(tmp_path: Path):
    one = sample_evaluation("/home/alice/runs/x/ckpt.pt", examples=0)
    for path in write_card(one, tmp_path / "deep" / "MODEL_CARD.md"):
        text = path.read_text(encoding="utf-8")
        assert "alice" not in text
        assert "/home" not in text


@pytest.mark.parametrize("threat", [("linf", 8 / 255, "8/255"), ("l2", 0.5, "0.5")])
def test_a_whole_autoattack_run_is_a_robustbench_entry(threat):
    info = robustbench_info(whole_autoattack(*threat))
    assert list(info) == [
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps",
        "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable",
    ]  # fmt: skip
    assert (info["dataset"], info["eps"]) == ("cifar10", threat[2])
    assert (info["clean_acc"], info["autoattack_acc"]) == ("84.12", "45.67")
    assert info["unreliable"] is False


def fewer(one):
    one.robust = Accuracy.of(456, 1000)


def broken(one):
    one.attacks[2].error = "RuntimeError: no"


def weaker(one):
    one.attacks[0].options["steps"] = 20


def more(one):
    one.attacks.append(Attack("pgd", {}, 9, 0, 0.4, 0, 0, 0))


def missing(one):
    del one.attacks[3]


def other_data(one):
    one.data.name = "folder:cifar"


def transferred(one):
    one.surrogate = one.model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (fewer, "1,000 samples of cifar10 test are not the whole test split"),
        (other_data, "folder:cifar test are not the whole"),
        (broken, "fab_t did not complete"),
        (weaker, "apgd_ce did not complete with the standard options"),
        (missing, "square did not complete"),
        (more, "attacks other than the standard ones"),
        (transferred, "crafted on another model"),
    ],
)
def test_anything_less_is_no_autoattack_accuracy(change, words):
    one = whole_autoattack()
    change(one)
    info = robustbench_info(one)
    assert info["autoattack_acc"] is None
    assert words in info["footnote"]


def test_a_failed_check_is_unreliable():
    one = whole_autoattack()
    one.checks = [Check("zero_gradients", "fail", 0.5, 0.05, "half have none")]
    assert robustbench_info(one)["unreliable"] is True


@pytest.mark.parametrize("threat", [("linf", 4 / 255, "4/255"), ("l2", 8 / 255, "0.03"), ("l1", 12.0, "12")])
def test_other_threats_have_no_entry(threat, tmp_path: Path):
    one = whole_autoattack(*threat)
    assert robustbench_info(one) is None
    assert write_card(one, tmp_path / "MODEL_CARD.md") == [tmp_path / "MODEL_CARD.md"]


def test_the_files_are_written_and_the_same_each_time(tmp_path: Path):
    one = whole_autoattack()
    paths = write_card(one, tmp_path / "a" / "MODEL_CARD.md")
    assert [path.name for path in paths] == ["MODEL_CARD.md", "robustbench.json"]
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)
    assert json.loads(paths[1].read_text(encoding="utf-8")) == robustbench_info(one)
    others = write_card(one, paths[0].with_name("MODEL_CARD-pgd.md"))
    assert [path.name for path in others] == ["MODEL_CARD-pgd.md", "robustbench-pgd.json"]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_card(one, paths[0])] == before


def test_a_card_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    (tmp_path / "robustbench.json").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_card(whole_autoattack(), tmp_path / "MODEL_CARD.md")
    assert not (tmp_path / "MODEL_CARD.md").exists()
