"""Wrappers, the suite rand and detectors on the command line."""

import re
import shlex
from pathlib import Path

import pytest

from robustcls.results.records import Evaluation

HERE = "tests.helpers.defences"
SMALL = ("--data", "digits(size=8)", "--n", 30, "--eps", 0.1, "--device", "cpu")


def command_in(text):
    """Return the command that a self-check suggests, joined from the wrapped lines of the terminal."""
    (found,) = set(re.findall(r"robustcls (attack --model .*? --n 30(?: --suite rand)?)", " ".join(text.split())))
    return shlex.split(found)


@pytest.mark.slow
def test_a_random_model_is_told_what_to_paste_and_that_gives_a_verdict(cli):
    first = cli("attack", "--model", f"{HERE}:noisy", *SMALL, "--attack", "pgd(steps=3)")
    pasted = command_in(first.out)
    assert pasted[2] == f"averaged({HERE}:noisy, draws=20)"
    assert sorted(pasted[3:]) == sorted(
        shlex.split("--data 'digits(size=8)' --eps 0.1 --device cpu --n 30 --suite rand")
    )
    second = cli(*pasted, "--quiet")
    assert second.status == 0, second.err
    found = Evaluation.load("evaluation-averaged.json")
    assert (found.model.name, found.robust.kind) == (f"averaged({HERE}:noisy, draws=20)", "upper bound: rand")
    assert f"{found.under_noise.robust.value:.1%}" in second.out
    assert "random_output" not in second.out
    assert cli(*pasted, "--quiet").status == 0, "the same model, so its evaluation may be replaced"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "suite"),
    [(f"averaged({HERE}:linear, draws=2)", ("--attack", "fgsm")), (f"{HERE}:linear", ("--suite", "rand"))],
)
def test_an_averaged_model_that_is_not_random_is_said_in_one_line(cli, model, suite):
    found = cli("attack", "--model", model, *SMALL, *suite, "--out", "e.json", "--quiet")
    assert found.status == 0, found.err
    said = " ".join(found.out.split())
    assert (
        said.count(
            "warning: random_output: two passes differ by 0.0e+00 of the largest logit: nothing random was found"
        )
        == 1
    )
    noise = Evaluation.load("e.json").under_noise.robust
    assert noise.noise95 == [noise.value] * 2, "without noise, the interval is a single value"
    assert cli("gate", "e.json", "--min-clean", 0.01).out.startswith("WARN")


def test_a_model_without_gradients_is_told_what_to_paste_and_falls(cli):
    attack = ("--attack", "pgd(steps=10)")
    first = cli("attack", "--model", f"{HERE}:coarse", *SMALL, *attack)
    pasted = command_in(first.out)
    assert pasted[2] == f"straight_through({HERE}:coarse, layer=levels)"
    assert cli(*pasted, *attack).status == 0
    looks, falls = (Evaluation.load(f"evaluation{name}.json") for name in ("", "-straight_through"))
    assert looks.robust.accuracy == looks.clean.accuracy
    assert falls.robust.accuracy < looks.robust.accuracy - 0.1


@pytest.mark.slow
def test_wrappers_nest_and_go_around_a_checkpoint(cli, home):
    model = f"averaged(straight_through({home}/pgd/ckpt.pt, layer=net), draws=2)"
    found = cli("attack", "--model", model, "--n", 10, "--attack", "fgsm")
    assert found.status == 2
    assert "net gives" in found.err, "a whole network changes the shape"
    model = f"averaged({home}/pgd/ckpt.pt, draws=2)"
    found = cli("attack", "--model", model, "--n", 10, "--attack", "fgsm", "--out", "out.json")
    assert found.status == 0, found.err
    assert "from averaged" not in found.err
    assert "from ckpt.pt" in found.err, "data and threat model still come from the checkpoint"


def test_a_detector_is_recorded_and_shown(cli):
    found = cli("attack", "--model", f"{HERE}:linear", *SMALL, "--detector", f"{HERE}:unconfident", "--fpr", 0.1)
    assert found.status == 0, found.err
    evaluation = Evaluation.load("evaluation.json")
    rejection = evaluation.rejection
    assert (rejection.detector, rejection.fpr) == (f"{HERE}:unconfident", 0.1)
    assert 0.05 < rejection.held_out_rejected / rejection.held_out <= 0.1
    assert evaluation.attacks[-1].name == "apgd_reject"
    said = " ".join(found.out.split())
    assert f"rejects {rejection.clean_rejected} of 30 clean images" in said
    page = cli("report", "evaluation.json", "--out", "report.html")
    assert page.status == 0, page.err
    assert f"{HERE}:unconfident rejects" in Path("report.html").read_text(encoding="utf-8")


def test_one_pass_of_a_random_model_is_in_the_report_and_judged(cli):
    model = f"averaged({HERE}:noisy, draws=3)"
    assert cli("attack", "--model", model, *SMALL, "--attack", "fgsm", "--out", "noisy.json").status == 0
    noisy = Evaluation.load("noisy.json").under_noise
    assert cli("report", "noisy.json", "--out", "report.html").status == 0
    page = Path("report.html").read_text(encoding="utf-8")
    assert "One pass of the random model" in page
    assert f"{noisy.robust.value:.1%}" in page
    gate = cli("gate", "noisy.json", "--min-robust", noisy.robust.ci95[1] + 0.01)
    assert gate.status == 1
    assert f"{noisy.robust.value:.1%}" in gate.out


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("averaged()", (), "a wrapper around nothing"),
        (f"averagd({HERE}:noisy)", (), "did you mean 'averaged'"),
        (f"averaged({HERE}:noisy, draws=0)", (), "needs 1 draw or more"),
        (f"averaged({HERE}:noisy, draw=3)", (), "did you mean 'draws'"),
        (f"straight_through({HERE}:coarse, layer=level)", (), "did you mean 'levels'"),
        (f"straight_through({HERE}:coarse)", (), "needs a layer of the model"),
        (f"straight_through({HERE}:coarse, layer=net)", (), "give a `substitute`"),
        (f"{HERE}:linear", ("--detector", f"{HERE}:as_many_as_classes"), "give a float score per image"),
        (f"{HERE}:linear", ("--detector", f"{HERE}:unconfident", "--fpr", "1"), "--fpr 1 is not a false positive rate"),
        (f"{HERE}:linear", ("--detector", f"{HERE}:unconfident", "--fpr", "0"), "--fpr 0 is not a false positive rate"),
        (f"{HERE}:linear", ("--detector", "unconfident"), "write it as package.module:score, as --detector"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(model, more, said, cli):
    found = cli("attack", "--model", model, *SMALL, "--attack", "fgsm", "--quiet", *more)
    assert found.status == 2
    assert said in found.err
    assert found.err.count("\n") == 1


def test_a_model_in_a_wrapper_is_not_exported(cli, home):
    found = cli("export", "--model", f"averaged({home}/pgd/ckpt.pt)", "--out", "artefact")
    assert found.status == 2
    assert "a model in a wrapper" in found.err
