"""Attacks and certificates in one evaluation are checked against each other: a contradiction is exit status 3."""

import json
from pathlib import Path

import numpy as np
import pytest

from robustcls.results.certified import Certified, CertifiedSample
from robustcls.results.contradictions import CHECK
from robustcls.results.records import Evaluation

HERE = "tests.helpers.defences"
LINEAR = f"{HERE}:linear"
SMOOTH = f"smoothed({LINEAR}, sigma=0.25, draws=2)"
DATA = ("--data", "digits(size=8)", "-n", 20, "--device", "cpu")
ATTACK = ("--attack", "pgd(steps=5)", "--norm", "linf", "--eps", 0.05)
BOUNDS = ("--method", "bounds", "--norm", "linf", "--eps-grid", "0.005,0.05")
SMOOTHING = ("--draws", 100, "--select-draws", 20)


@pytest.fixture
def false_bounds(monkeypatch):
    """Replace the bounds by false ones that certify every correct sample at the largest radius."""
    from robustcls.evaluation import certify_by_bounds

    monkeypatch.setattr(certify_by_bounds, "_largest", lambda subject, rows, right, radii: right.double() * max(radii))


def check_in(path):
    return next((one for one in Evaluation.load(path).checks if one.id == CHECK), None)


def attack(cli, *more, out="both.json", model=LINEAR, options=ATTACK):
    return cli("attack", "--model", model, *DATA, *options, "--out", out, *more)


def certify(cli, *more, out="both.json", model=LINEAR, options=BOUNDS):
    return cli("certify", "--model", model, *DATA, *options, "--out", out, *more)


def test_true_bounds_pass_in_either_order(cli):
    assert attack(cli).status == 0
    found = certify(cli)
    assert found.status == 0, found.err
    assert "certificates: no attack broke one of the" in " ".join(found.out.split())
    first = check_in("both.json")
    assert first.status == "pass"
    again = attack(cli)
    assert again.status == 0, again.err
    assert "the certificates in both.json are kept, beside the attacks" in " ".join(again.err.split())
    assert "proven" in again.out
    assert check_in("both.json") == first
    both = Evaluation.load("both.json")
    assert len(both.certified.samples) == 20
    assert 0 < both.robust.correct < both.clean.correct


def test_false_bounds_are_caught_when_they_are_added(cli, false_bounds):
    assert attack(cli).status == 0
    found = certify(cli)
    assert found.status == 3, found.err
    assert "warning: certificates:" in found.out
    assert "bounds hold for certain" in " ".join(found.out.split())
    both = Evaluation.load("both.json")
    broken = sum(one.broken_by is not None for one in both.samples)
    assert check_in("both.json").measured == broken > 0
    for command in (("gate", "both.json", "--min-robust", 0.01), ("report", "both.json", "--out", "r.html")):
        caught = cli(*command)
        assert caught.status == 3, caught.err
    assert "attacks contradict the certificates" in " ".join(caught.err.split())
    assert "sample" in Path("r.html").read_text()


def test_false_bounds_are_caught_by_an_attack_beside_them(cli, false_bounds):
    assert certify(cli).status == 0, "without attacks, the certificates are not checked"
    assert check_in("both.json") is None
    found = attack(cli)
    assert found.status == 3
    assert "warning: certificates:" in found.out
    assert check_in("both.json").status == "fail"


def test_a_report_of_a_model_keeps_its_certificates_and_holds_to_them(cli, false_bounds):
    assert certify(cli, out="evaluation.json").status == 0
    measured = ("--profile", "quick", "--examples", 0, "--minutes", 5, "--corruptions-n", 0, "--maps-n", 0)
    found = cli("report", "--model", LINEAR, *DATA, *ATTACK, *measured, "--out", "r.html")
    assert found.status == 3, found.err
    assert check_in("evaluation.json").status == "fail"


def test_a_file_whose_radii_were_edited_is_caught(cli):
    assert attack(cli).status == 0
    assert certify(cli).status == 0
    evaluation = Evaluation.load("both.json")
    samples = [
        CertifiedSample(one.index, one.label, one.predicted, 0.05 if one.predicted == one.label else 0.0)
        for one in evaluation.certified.samples
    ]
    evaluation.certified = Certified.of("bounds", "linf", samples, [0, 0.05], algorithm="edited")
    evaluation.save("both.json")
    assert check_in("both.json").status == "pass", "the check stored in the file still passes"
    assert cli("gate", "both.json", "--min-robust", 0.01).status == 3
    assert cli("report", "both.json", "--out", "r.html").status == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--norm", "l2", "--eps", 0.2), "has certificates in linf, and the attacks are in l2"),
        (("-n", 10), "is on other samples"),
        (("--overwrite",), ""),
    ],
)
def test_certificates_of_another_question_do_not_stand_beside_attacks(more, said, cli):
    assert certify(cli).status == 0
    found = attack(cli, *more)
    assert found.status == 0, found.err
    assert said in " ".join(found.err.split())
    assert Evaluation.load("both.json").certified is None


def test_smoothing_takes_the_examples_of_attacks_that_were_made_before(cli):
    """tests/evaluation/test_certificate_check.py tests how the examples are used."""
    options = ("--attack", "pgd(steps=5)", "--norm", "l2", "--eps", 0.3)
    assert attack(cli, "--save-examples", "x.npz", model=SMOOTH, options=options).status == 0
    found = certify(cli, "--examples", "x.npz", model=SMOOTH, options=SMOOTHING)
    assert found.status == 0, found.err
    assert check_in("both.json").status in ("pass", "warn")
    assert "the vote was not repeated" not in check_in("both.json").message


def test_examples_of_something_else_are_refused(cli):
    options = ("--attack", "fgsm", "--norm", "l2", "--eps", 0.3)
    assert attack(cli, "--save-examples", "x.npz", model=SMOOTH, options=options).status == 0
    before = Path("both.json").read_text()
    np.savez("other.npz", a=np.zeros(3))
    Path("no.npz").write_text("no")
    with np.load("x.npz") as file:
        columns = dict(file)
    np.savez("moved.npz", **{**columns, "x": columns["x"] * 0.5})
    np.savez("beyond.npz", **{**columns, "index": columns["index"] + 100_000})
    for name, said in (
        ("missing.npz", "no file missing.npz"), ("other.npz", "holds no adversarial examples"),
        ("no.npz", "holds no adversarial examples"), ("moved.npz", "is of other images"), ("beyond.npz", "is of other images"),
    ):  # fmt: skip
        found = certify(cli, "--examples", name, "--quiet", model=SMOOTH, options=SMOOTHING)
        assert found.status == 2, name
        assert said in found.err
        assert found.err.count("\n") == 1
    assert Path("both.json").read_text() == before
    alone = certify(cli, "--examples", "x.npz", "--quiet", out="new.json", model=SMOOTH, options=SMOOTHING)
    assert alone.status == 2
    assert "--out has none" in alone.err
    assert json.loads(before)["attacks"]
