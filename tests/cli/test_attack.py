"""`robustcls attack`: the evaluation that it writes and the table that it prints."""

import json

import numpy as np
import pytest
import torch

import robustcls
from robustcls.cli.attack import summarise
from robustcls.evaluation.attacks import name_attacks
from robustcls.results.records import Accuracy, Attack, Check, Evaluation
from robustcls.results.statistics import wilson
from tests.helpers.judged_by_hand import make_evaluation

KEYS = {  # the keys that an evaluation file must have
    "schema": (),
    "model": ("name", "sha256"),
    "data": ("name", "split", "n", "sha256"),
    "threat": ("norm", "eps", "eps_text"),
    "clean": ("correct", "total", "accuracy", "ci95"),
    "robust": ("correct", "total", "accuracy", "ci95", "kind"),
    "attacks": (
        "name", "options", "attacked", "broken", "robust_accuracy", "seconds", "forwards", "backwards",
    ),
    "checks": ("id", "status", "measured", "threshold", "message"),
    "samples": ("index", "label", "clean", "adversarial", "broken_by", "distance"),
    "provenance": ("command", "config", "seed", "versions", "device", "commit", "started", "seconds"),
}  # fmt: skip
FAST = ("--n", 40, "--attack", "fgsm", "--attack", "pgd(steps=3)", "--batch-size", 32)


def test_the_evaluation_and_the_examples(cli, home, tmp_path):
    result = cli(
        "attack", "--model", home / "standard" / "ckpt.pt", *FAST, "--out", "new/e.json", "--save-examples", "new/e.npz"
    )
    assert result.status == 0, result.err
    whole = json.loads((tmp_path / "here" / "new" / "e.json").read_text(encoding="utf-8"))
    for key, parts in KEYS.items():
        for place in whole[key] if isinstance(whole[key], list) else [whole[key]]:
            assert set(parts) <= set(place if parts else parts)
    evaluation = Evaluation.load(tmp_path / "here" / "new" / "e.json")
    assert (evaluation.data.name, evaluation.data.split, evaluation.data.n) == ("digits(size=8)", "test", 40)
    assert (evaluation.threat.norm, evaluation.threat.eps) == ("linf", 0.06)
    assert evaluation.model.name == "standard/ckpt.pt"
    assert [(attack.name, attack.options["steps"]) for attack in evaluation.attacks[1:]] == [("pgd", 3)]
    assert evaluation.robust.kind == "upper bound: fgsm, pgd(steps=3)"
    assert evaluation.clean.correct > evaluation.robust.correct
    assert evaluation.training.chosen_epoch in (1, 2, 3)
    examples = np.load(tmp_path / "here" / "new" / "e.npz")
    assert sorted(examples.files) == ["broken_by", "index", "x", "x_adv", "y"]
    broken = [sample for sample in evaluation.samples if sample.broken_by]
    assert examples["index"].tolist() == [sample.index for sample in broken]
    assert examples["broken_by"].tolist() == [sample.broken_by for sample in broken]
    x, x_adv, y = (torch.from_numpy(examples[name]) for name in ("x", "x_adv", "y"))
    assert (x.shape, x.dtype, x_adv.dtype) == ((len(broken), 1, 8, 8), torch.float32, torch.float32)
    assert (x_adv - x).abs().max() <= 0.06 + 1e-6
    model = robustcls.load(home / "standard" / "ckpt.pt")
    assert (model(x).argmax(1) == y).all()
    assert (model(x_adv).argmax(1) != y).all()
    for line in (f"new/e.npz: {len(broken)} adversarial examples", "new/e.json", "n = 40, 95% Wilson intervals"):
        assert line in result.out
    assert "threat linf:0.06, from ckpt.pt" in result.err
    assert "data digits(size=8), from ckpt.pt, split test: 40 of 540 samples" in result.err
    assert max(map(len, result.out.splitlines())) <= 80


def test_flags_win_over_the_checkpoint_and_a_file_over_defaults(cli, home, tmp_path):
    (tmp_path / "here" / "o.toml").write_text('n = 20\nattack = ["fgsm"]\neps = "1/255"\nseed = 3\n', encoding="utf-8")
    model = home / "standard" / "ckpt.pt"
    result = cli(
        "attack", "--model", model, "--config", "o.toml", "--eps", "2/255", "--split", "val", "--out", "e.json"
    )
    assert result.status == 0, result.err
    evaluation = Evaluation.load("e.json")
    assert (evaluation.threat.eps_text, evaluation.data.split, evaluation.data.n) == ("2/255", "val", 20)
    assert [attack.name for attack in evaluation.attacks] == ["fgsm"]
    assert evaluation.provenance.seed == 3


def test_train_is_what_the_model_trained_on(cli, home):
    model = home / "standard" / "ckpt.pt"
    assert cli("attack", "--model", model, "--split", "train", *FAST, "--out", "e.json").status == 0
    evaluation = Evaluation.load("e.json")
    assert evaluation.data.available == 600  # --limit-train
    assert cli("attack", "--model", model, "--split", "train", "--data", "my_plugins:digits", *FAST, "--out", "f.json")
    assert Evaluation.load("f.json").data.available > 1000


def test_quiet_prints_results_alone(cli, home):
    model = home / "standard" / "ckpt.pt"
    loud, quiet = (cli("attack", "--model", model, *FAST, "--out", "e.json", *more) for more in ((), ("--quiet",)))
    assert quiet.err == ""
    assert loud.err != ""
    assert [line[:40] for line in quiet.out.splitlines()] == [line[:40] for line in loud.out.splitlines()]


def test_a_model_from_code_and_foreign_weights(cli, home):
    result = cli("attack", "--model", "my_plugins:net", "--data", "digits(size=8)", "--eps", 0.1, *FAST)
    assert result.status == 0, result.err
    assert Evaluation.load("evaluation.json").model.name == "my_plugins:net"
    weights = home / "two-weights.pt"
    options = ("--arch", "vgg16(width=0.05)", "--data", f"folder:{home / 'images'}(grey=True)", "--out", "w.json")
    result = cli("attack", "--model", weights, *options, *FAST[2:])
    assert result.status == 0, result.err
    assert "assumed to take [0, 1] pixels" in " ".join(result.err.split())
    assert Evaluation.load("w.json").threat.eps_text == "8/255"
    assert max(map(len, result.err.splitlines())) <= 80 or "/" in max(result.err.splitlines(), key=len)


def test_the_usual_place_is_beside_the_checkpoint(cli, home, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ckpt.pt").write_bytes((home / "pgd" / "ckpt.pt").read_bytes())
    result = cli("attack", "--model", tmp_path / "run" / "ckpt.pt", "--n", 10, "--attack", "fgsm")
    assert result.out.splitlines()[-1] == str(tmp_path / "run" / "evaluation.json")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["ckpt.pt", "evaluation.json"]


def test_ctrl_c_before_anything_is_done_ends_with_130_and_leaves_nothing(cli, home, tmp_path):
    result = cli("attack", "--model", home / "pgd" / "ckpt.pt", "--attack", "my_plugins:interrupt", "--out", "e.json")
    assert result.status == 130
    assert result.err.splitlines()[-1] == "robustcls: interrupted"
    assert not list((tmp_path / "here").iterdir())


# The table


def widest():
    evaluation = make_evaluation(7000, 5000, n=10000, attack="apgd_ce")
    evaluation.clean = evaluation.robust = Accuracy(10000, 10000, 1.0, list(wilson(10000, 10000)))
    evaluation.robust.kind = "upper bound: " + ", ".join(f"apgd_t(steps={i}00, targets=9)" for i in range(1, 6))
    evaluation.attacks = [
        Attack("mylab.attacks.gradients:momentum_iterative_method", {"steps": 1}, 10000, 10000, 1.0, 98765.43, 0, 0,
               Accuracy(10000, 10000, 1.0, [1.0, 1.0])),
        Attack("pgd(steps=10)", {"steps": 10}, 10000, 0, 1.0, 12.34, 0, 0),
        Attack("pgd(steps=200)", {"steps": 200}, 10000, 0, 0.5, 12.34, 0, 0, error="RuntimeError: " + "why " * 40),
    ]  # fmt: skip
    evaluation.checks = [Check("zero_gradients", "fail", 0.5, 0.05, "too many of the gradients are 0, " * 5)]
    return evaluation


def test_the_widest_table_fits_and_is_aligned():
    lines = summarise(widest()).splitlines()
    assert max(map(len, lines)) <= 80
    header, rule, clean, first, second, third = lines[:6]
    assert len(rule) == len(header)
    assert header.split() == ["attack", "attacked", "broken", "accuracy", "alone", "seconds"]
    assert first.startswith("mylab.attacks.gradients:")
    for row, cells in ((clean, {"accuracy": "100.0%"}), (third, {"accuracy": "failed", "seconds": "12.3"})):
        for column, cell in cells.items():
            end = header.index(column) + len(column)
            assert row[:end].endswith(f" {cell}")
    assert second.startswith("pgd(steps=10) ")
    assert third.startswith("pgd(steps=200) ")
    assert any(line.startswith("failed: pgd(steps=200): RuntimeError") for line in lines)
    assert any(line.startswith("warning: zero_gradients: too many") for line in lines)


def test_without_attacks_alone_the_table_has_no_such_column():
    evaluation = widest()
    assert "alone" in summarise(evaluation)
    evaluation.attacks[0].alone = None
    assert "alone" not in summarise(evaluation)


def test_attacks_of_one_name_are_told_apart_by_what_differs():
    assert name_attacks(["pgd(steps=5)", "fgsm", "pgd(steps=9)", "pgd(steps=9)"]) == [
        "pgd(steps=5)",
        "fgsm",
        "pgd(steps=9) #1",
        "pgd(steps=9) #2",
    ]


@pytest.mark.parametrize("status", ["pass", "not_run"])
def test_checks_that_did_not_fail_are_not_shown(status):
    evaluation = make_evaluation(90, 50)
    evaluation.checks = [Check("zero_gradients", status, 0.0, 0.05, "fine")]
    assert "zero_gradients" not in summarise(evaluation)


# Radii, other models, distances


def test_the_security_curve(cli, home, tmp_path):
    result = cli("attack", "--model", home / "pgd" / "ckpt.pt", *FAST, "--eps-grid", "0,0.03,0.12", "--out", "e.json")
    assert result.status == 0, result.err
    found = Evaluation.load(tmp_path / "here" / "e.json")
    assert [point.eps for point in found.curve] == [0, 0.03, 0.06, 0.12]
    shares = [point.robust.accuracy for point in found.curve]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[2]) == (found.clean.accuracy, found.robust.accuracy)
    assert "security curve" in result.out
    assert "eps 0.03" in result.out
    assert max(map(len, result.out.splitlines()[:-1])) <= 80
    refused = cli("attack", "--model", home / "pgd" / "ckpt.pt", *FAST, "--eps-grid", "0,x", "--out", "f.json")
    assert (refused.status, len(refused.err.strip().splitlines())) == (2, 1)
    assert not (tmp_path / "here" / "f.json").exists()


def test_transfer_from_another_model(cli, home, tmp_path):
    arguments = ("attack", "--model", home / "pgd" / "ckpt.pt", *FAST, "--transfer-from", home / "standard" / "ckpt.pt")
    result = cli(*arguments, "--out", "e.json")
    assert result.status == 0, result.err
    found = Evaluation.load(tmp_path / "here" / "e.json")
    assert found.surrogate.name == "standard/ckpt.pt"
    assert found.threat.knowledge.startswith("transfer")
    assert "transfer: examples crafted on standard/ckpt.pt" in result.out
    white = cli("attack", "--model", home / "pgd" / "ckpt.pt", *FAST, "--out", "w.json")
    assert white.status == 0
    assert Evaluation.load(tmp_path / "here" / "w.json").robust.correct < found.robust.correct
    missing = cli("attack", "--model", home / "pgd" / "ckpt.pt", *FAST, "--transfer-from", "no.pt", "--out", "f.json")
    assert missing.status == 2
    assert "no.pt" in missing.err


def test_minimum_norm_distances(cli, home, tmp_path):
    result = cli(
        "attack", "--model", home / "pgd" / "ckpt.pt", "--n", 20, "--attack", "fmn(steps=20)", "--out", "e.json"
    )
    assert result.status == 0, result.err
    found = Evaluation.load(tmp_path / "here" / "e.json")
    (attack,) = found.attacks
    right = [sample for sample in found.samples if sample.clean == sample.label]
    distances = [sample.nearest["fmn"] for sample in right]
    assert attack.censored == sum(distance is None for distance in distances)
    assert "fmn: median distance" in result.out
    assert attack.broken == sum(distance is not None and distance <= 0.06 + 1e-6 for distance in distances) > 0


def test_attacks_that_leave_every_ball_need_the_whole_box(cli, home):
    model = home / "pgd" / "ckpt.pt"
    refused = cli("attack", "--model", model, "--n", 20, "--attack", "pgd", "--attack", "patch", "--out", "e.json")
    assert refused.status == 2
    assert "--norm linf and --eps 1" in refused.err
    patched = cli(
        "attack",
        "--model",
        model,
        "--n",
        20,
        "--attack",
        "patch(steps=2)",
        "--norm",
        "linf",
        "--eps",
        1,
        "--out",
        "e.json",
    )
    assert patched.status == 0, patched.err


def test_a_note_on_the_data_is_kept(cli, home):
    options = ("--n", 10, "--attack", "fgsm", "--data-note", "a JPEG copy", "--out", "noted.json", "--quiet")
    assert cli("attack", "--model", home / "pgd" / "ckpt.pt", *options).status == 0
    assert Evaluation.load("noted.json").data.note == "a JPEG copy"
