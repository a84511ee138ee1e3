"""`--target`: what it counts, prints and writes, and what it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import robustcls
from robustcls.results.records import Evaluation

SMALL = ("--n", 40, "--attack", "pgd(steps=5)", "--quiet")


@pytest.fixture
def model(home):
    return home / "standard" / "ckpt.pt"


def test_the_terminal_the_file_the_examples_the_report_and_the_card_say_so(cli, model):
    found = cli("attack", "--model", model, *SMALL, "--target", "second", "--save-examples", "e.npz", "--out", "e.json")
    assert found.status == 0, found.err
    evaluation, kept = Evaluation.load("e.json"), np.load("e.npz")
    reached = evaluation.targeted.reached
    assert 0 < reached.correct == len(kept["target"]) < reached.total
    net = robustcls.load(model)
    assert net(torch.from_numpy(kept["x_adv"])).argmax(1).tolist() == kept["target"].tolist()
    said = " ".join(found.out.split())
    assert "attacked reached target accuracy" in said
    assert f"target second: reached by {reached}" in said
    assert f"target   second: reached by {reached}" in str(evaluation)
    assert json.loads(Path("e.json").read_text(encoding="utf-8"))["provenance"]["config"]["target"] == "second"
    assert cli("report", "e.json", "--out", "report.html", "--model-card").status == 0
    page, card = (path.read_text(encoding="utf-8") for path in (Path("report.html"), *Path().glob("*.md")))
    for part in (
        "Reached the target",
        "target: second. A prediction of any other wrong class counts as robust",
        "targeted: second",
    ):
        assert part in page
    assert f"| Reached the target (second) under linf 0.06 | {reached.accuracy:.1%}" in card
    assert "- Attacker's goal: targeted: second; no other wrong class counts" in card


def test_a_class_by_its_name_leaves_its_own_samples_out(cli, model):
    found = cli("attack", "--model", model, *SMALL, "--target", "3", "--out", "e.json")
    assert found.status == 0, found.err
    evaluation = Evaluation.load("e.json")
    assert evaluation.targeted.left_out == 40 - evaluation.data.n > 0
    assert f"{evaluation.targeted.left_out} samples of that class left out" in " ".join(found.out.split())
    assert "but for the class 3" in " ".join(found.out.split())


def test_without_attacks_the_suite_is_one_that_aims(cli, model):
    found = cli("attack", "--model", model, "--n", 10, "--target", "least_likely", "--out", "e.json")
    assert found.status == 0, found.err
    evaluation = Evaluation.load("e.json")
    assert evaluation.robust.kind == "upper bound: targeted; only the target counts, least_likely"
    assert evaluation.suites == {"targeted": 1}
    assert [attack.name for attack in evaluation.attacks] == ["apgd_dlr", "apgd_ce"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "cat"), "unknown target 'cat'"),
        (("--target", "secnd"), "unknown target 'secnd'"),
        (("--target", ""), "unknown target ''"),
        (("--target", "10"), "target 10 is none of the model's 10 classes, which count from 0"),
        (("--target=-1",), "target -1 is none of the model's 10 classes"),
        (("--target", "3.5"), "unknown target '3.5'"),
        (("--target", "second", "--suite", "standard"), "apgd_t cannot aim at a class: leave out --target"),
        (
            ("--target", "second", "--suite", "fast"),
            "cannot aim at a class: leave out --target, .* or --suite targeted",
        ),
        (("--target", "second", "--attack", "fab_t"), "fab_t cannot aim at a class"),
        (("--target", "second", "--attack", "pgd", "--attack", "standard"), "apgd_t cannot aim at a class"),
        (
            ("--target", "second", "--detector", "tests.helpers.defences:unconfident"),
            "not evaluated together with a detector: leave out --target or --detector",
        ),
    ],
)
@pytest.mark.parametrize("command", ["attack", "report"])
def test_what_cannot_be_aimed_at_is_one_line_and_status_2(cli, model, command, options, message):
    found = cli(command, "--model", model, "--n", 10, *options, "--out", "new")
    assert found.status == 2
    (line,) = [line for line in found.err.splitlines() if line.startswith("robustcls: ")]
    assert re.search(message, line)
    assert "Traceback" not in found.err
    assert not Path("new").exists()


def test_compare_and_gate_know_the_difference(cli, model):
    for name, options in (("aimed", ("--target", "second")), ("free", ())):
        assert cli("attack", "--model", model, *SMALL, *options, "--out", f"{name}.json").status == 0
    found = cli("compare", "free.json", "aimed.json")
    assert found.status == 2
    assert "the definitions of success differ (any wrong class and target second)" in " ".join(found.err.split())
    assert cli("compare", "aimed.json", "aimed.json").status == 0
    assert cli("report", "free.json", "aimed.json", "--out", "both.html").status == 0
    assert "the definitions of success differ" in Path("both.html").read_text(encoding="utf-8")
    gate = cli("gate", "aimed.json", "--min-robust", 0.01)
    assert gate.status == 3
    assert "the attacks aim at one class, second: evaluate without a target" in " ".join(gate.out.split())
    assert cli("gate", "aimed.json", "--min-clean", 0.01).status == 0


def test_a_run_that_is_resumed_keeps_its_target(cli, model):
    own = Path("aims.py")
    own.write_text(
        "calls = 0\n\n\n"
        "def cut(model, x, y, threat, *, target=None, generator=None):\n"
        "    global calls\n    calls += 1\n"
        "    if calls == 2:\n        raise KeyboardInterrupt\n    return x\n",
        encoding="utf-8",
    )
    run = (
        "attack",
        "--model",
        model,
        "--n",
        40,
        "--attack",
        "aims:cut",
        "--batch-size",
        16,
        "--quiet",
        "--out",
        "e.json",
    )
    assert cli(*run, "--target", "second").status == 130
    other = cli(*run, "--target", "random", "--resume")
    assert other.status == 2
    assert "another target" in other.err
    assert cli(*run, "--target", "second", "--resume").status == 0
    assert Evaluation.load("e.json").targeted.target == "second"
