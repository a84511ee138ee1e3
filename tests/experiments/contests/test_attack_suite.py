"""The contests: claims are verified, a contestant that fails gets a row, and every installed library takes part."""

import importlib.util
import json
import sys

import pytest
import torch

from experiments.contests.__main__ import command
from experiments.contests.attack_suite import Arena, contestants_of, summarize
from experiments.contests.attacking import CONTESTS, Contestant, pyautoattack
from experiments.contests.config import ContestConfig
from experiments.contests.tables import attack
from experiments.contests.verdict import rejudge
from robustcls.cli.console import table
from robustcls.cli.main import main
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.data.splits import choose, load_split

THREAT = ThreatModel("linf", 0.1)
PEERS = ("foolbox", "torchattacks", "art", "pyautoattack")


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


class Brightness(torch.nn.Module):
    """A model that predicts class 1 if the mean of the pixels exceeds a half."""

    def forward(self, x):
        score = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-score, score], 1)


def samples():
    """Return four images of class 0, the last of which is labelled 1 and therefore misclassified from the start."""
    return torch.full((4, 1, 4, 4), 0.45), torch.tensor([0, 0, 0, 1])


def verdict(x_adv, claimed):
    x, y = samples()
    return rejudge(Brightness(), x, y, THREAT, x_adv, torch.tensor(claimed))


def test_valid_examples_confirm_the_claim():
    x, _ = samples()
    x_adv = x.clone()
    x_adv[:2] += 0.1
    found = verdict(x_adv, [False, False, True, False])
    assert found["clean_accuracy"] == 0.75
    assert found["robust_accuracy"] == found["claimed_robust_accuracy"] == 0.25
    assert (found["unverified"], found["outside"]) == (0, 0)
    assert found["farthest"] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("lie", ["outside the ball", "outside the box", "not a number", "fools nobody"])
def test_false_claims_do_not_count(lie):
    x, y = samples()
    x_adv = {
        "outside the ball": x + 0.2,
        "outside the box": x + 0.6,
        "not a number": torch.full_like(x, torch.nan),
        "fools nobody": x - 0.1,
    }[lie]
    found = verdict(x_adv, [False] * 4)
    assert (found["claimed_robust_accuracy"], found["robust_accuracy"]) == (0, 0.75)
    assert found["unverified"] == 3
    assert found["outside"] == (0 if lie == "fools nobody" else 4)
    json.dumps(found, allow_nan=False)


def test_a_point_in_the_ball_and_outside_the_box_does_not_count():
    x, y = torch.full((1, 1, 4, 4), 0.98), torch.tensor([1])
    lowered = torch.cat([x.flatten()[:8] + 0.05, x.flatten()[8:]]).view_as(x)
    found = rejudge(Brightness(), x, y - 1, THREAT, lowered, torch.tensor([False]))
    assert found["outside"] == 1


def test_claims_that_are_too_low_are_corrected():
    x, _ = samples()
    found = verdict(x + 0.1, [True, True, True, False])
    assert (found["claimed_robust_accuracy"], found["robust_accuracy"], found["unverified"]) == (0.75, 0, 0)


@pytest.mark.parametrize(("x_adv", "claimed"), [(torch.zeros(3, 1, 4, 4), [True] * 4), (samples()[0], [True] * 3)])
def test_examples_of_other_images_are_refused(x_adv, claimed):
    with pytest.raises(ValueError, match=r"for images \(4, 1, 4, 4\)"):
        verdict(x_adv, claimed)


def result(seconds, robust, **more):
    accuracies = {"clean_accuracy": 0.8, "robust_accuracy": robust, "claimed_robust_accuracy": robust}
    counts = {"unverified": 0, "outside": 0, "precision": "fp32", "peak_memory_mb": 1.0, "threads": 1}
    return accuracies | counts | {"seconds": seconds} | more


def test_ratio_and_points_are_taken_within_rounds_that_both_finished():
    rounds = {"reference": [result(4, 0.5), result(8, 0.5), {"error": "no"}], "own": [result(2, 0.48)] * 3}
    row = summarize(Contestant("own", pyautoattack, "reference"), rounds, 10)
    assert (row["ratio"], row["points"]) == (3, pytest.approx(-2))
    assert "error" not in row
    alone = summarize(Contestant("own", pyautoattack, "absent"), rounds, 10)
    assert (alone["ratio"], alone["points"]) == (None, None)


def test_a_stage_of_ours_that_broke_off_is_told_beside_its_numbers():
    stages = [{"name": "apgd_ce", "error": ""}, {"name": "square", "error": "OutOfMemoryError: all"}]
    row = summarize(Contestant("own", pyautoattack, "own"), {"own": [result(2, 0.5, attacks=stages)]}, 10)
    assert (row["seconds"], row["error"]) == (2, "square: OutOfMemoryError: all")


def test_the_table_shows_lies_failures_and_absence_in_80_columns():
    long = "pyautoattack with a name of forty letters"
    rounds = {
        long: [result(1234.5, 0.5)],
        "liar": [result(1, 0.8, unverified=3, outside=4)],
        "dead": [{"error": "no " * 60}],
    }
    rows = {name: summarize(Contestant(name, pyautoattack, long), rounds, 10) for name in rounds}
    text = attack({
        "contest": "autoattack", "task": {"steps": 3, "norm": "linf", "eps": "0.1"}, "n": 10, "rows": rows,
        "subject": {"model": {"name": "m"}, "data": {"name": "d"}, "threads": 1}, "missing": ["art"],
    }, table)  # fmt: skip
    assert max(map(len, text.splitlines())) <= 80
    assert "liar: 3 claims do not hold; 4 images left ball or box" in text
    assert "failed" in text
    assert "dead: no no" in text
    assert "not installed: art" in text


def test_contests_are_asked_for_by_name():
    assert ContestConfig().contests == ["pgd"]
    assert ContestConfig(contest=("single", "pgd", "single")).contests == ["pgd", "single"]
    assert ContestConfig(contest=("all",)).contests == list(CONTESTS)
    assert [ContestConfig().rounds_of(name) for name in CONTESTS] == [3, 1, 1, 1]
    with pytest.raises(InputError, match="did you mean 'single'"):
        ContestConfig(contest=("singel",))
    assert "ART AutoAttack" not in [one.name for one in contestants_of("autoattack", slow=False)[0]]


def test_every_reference_takes_part_in_its_contest():
    for contest in CONTESTS.values():
        names = [one.name for one in contest]
        assert len(set(names)) == len(names)
        assert {one.reference for one in contest} <= set(names)


CODE = """
import os
import sys

import torch

from robustcls.data.splits import load_split


def nearest():
    '''The class whose mean image is nearest, as a linear layer.'''
    x, y = load_split("digits", "train").batch()
    means = torch.stack([x[y == label].mean(0).flatten() for label in range(10)])
    layer = torch.nn.Linear(1024, 10)
    layer.weight.data, layer.bias.data = means, -means.square().sum(1) / 2
    return torch.nn.Sequential(torch.nn.Flatten(), layer)


def drawn():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))


def other():
    torch.manual_seed(os.getpid())
    return drawn()


def small():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def moody():
    if "experiments.contests.contestant" in sys.orig_argv:
        raise RuntimeError("not in\\na contest")
    return drawn()
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Write code with models into the current folder."""
    (tmp_path / "tinymodel.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("tinymodel", None)


@pytest.fixture
def arena(tiny, tmp_path):
    """Return a function that makes an arena of eight digits for a model of this code."""

    def make(model, **changes):
        task = {
            "device": "cpu", "seed": 0, "norm": "linf", "eps": "0.1", "model": f"tinymodel:{model}", "arch": "vgg16",
            "mean": None, "std": None, "steps": 4, "precision": "fp32", "batch_size": "auto",
        }  # fmt: skip
        images = choose(load_split("digits", "test"), 8)
        return Arena(images, task | changes, tmp_path, {"name": "digits", "split": "test", "sampling": "all"})

    return make


def bench(tmp_path, capsys, *arguments):
    out = tmp_path / "bench.json"
    options = ["--suite", "attack", "--n", "8", "--attack-steps", "4", "--eps", "0.1", "--quiet", "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        main([*options, *arguments], command)
    printed = capsys.readouterr()
    return stop.value.code or 0, json.loads(out.read_text()) if out.exists() else None, printed


@needs(*PEERS)
@pytest.mark.slow
def test_pgd_with_every_peer_on_a_model_from_code(tiny, tmp_path, capsys):
    status, written, printed = bench(tmp_path, capsys, "--model", "tinymodel:nearest", "--rounds", "1")
    assert status == 0
    suite = written["suites"]["attack"]
    assert list(suite["rows"]) == ["plain fp32 loop", "robustcls", "foolbox", "torchattacks", "ART"]
    for name, row in suite["rows"].items():
        assert "error" not in row, row
        assert (row["unverified"], row["outside"]) == (0, 0)
        assert row["robust_accuracy"] == row["claimed_robust_accuracy"] <= row["clean_accuracy"], name
        assert abs(row["points"]) <= 12.5  # one of eight samples
        assert row["robust_accuracy"] < row["clean_accuracy"]
    stages = suite["rounds"]["robustcls"][0]["attacks"]
    assert stages[0]["name"] == "pgd"
    assert stages[0]["forwards"] > 0
    subject = suite["subject"]
    assert subject["model"]["name"] == "tinymodel:nearest"
    assert len(subject["model"]["sha256"]) == len(subject["data"]["sha256"]) == 64
    assert subject["data"]["n"] == suite["n"] == 8
    assert subject["threat"] == {"norm": "linf", "eps": 0.1, "eps_text": "0.1"}
    assert subject["threads"] == torch.get_num_threads()
    assert {"foolbox", "torchattacks", "adversarial-robustness-toolbox", "pyautoattack"} <= subject["versions"].keys()
    assert str(tmp_path) not in printed.out.replace(str(tmp_path / "bench.json"), "")


@needs("pyautoattack")
@pytest.mark.slow
def test_autoattack_and_single_on_a_model_from_code(tiny, tmp_path, capsys):
    arguments = ["--model", "tinymodel:nearest", "--contest", "autoattack", "--contest", "single"]
    arguments += ["--eps", "0.5"]  # the first attack breaks everything, so the others are cheap
    status, written, printed = bench(tmp_path, capsys, *arguments)
    assert status == 0
    assert list(written["suites"]) == ["autoattack", "single"]
    for suite in written["suites"].values():
        for name, row in suite["rows"].items():
            assert "error" not in row, (name, row)
            assert row["unverified"] == 0
            assert row["points"] is not None
            assert len(suite["rounds"][name]) == 1
    rows = written["suites"]["autoattack"]["rows"]
    assert rows["robustcls standard"]["points"] == 0  # all break the linear model equally
    assert rows["pyautoattack standard"]["ratio"] == 1
    single = written["suites"]["single"]["rows"]
    assert single["robustcls apgd_ce"]["reference"] == "pyautoattack apgd-ce"
    assert max(len(line) for line in printed.out.splitlines() if str(tmp_path) not in line) <= 80


@pytest.mark.slow
def test_where_nobody_finishes_the_bench_says_why(tiny, tmp_path, capsys):
    status, written, printed = bench(tmp_path, capsys, "--model", "tinymodel:moody", "--rounds", "1")
    assert (status, written) == (2, None)
    assert printed.err.count("\n") == 1
    assert "no contestant of pgd finished; plain fp32 loop: " in printed.err
    assert "not in a contest" in printed.err


@pytest.mark.slow
def test_other_weights_in_the_contestants_process_are_noticed(arena):
    assert "robust_accuracy" in arena("drawn").turn("pgd", "plain fp32 loop")
    assert "its process built other weights" in arena("other").turn("pgd", "plain fp32 loop")["error"]


@needs("torchattacks")
def test_a_peer_that_fails_has_a_row(arena):
    failed = arena("nearest", norm="l1", eps="2").turn("pgd", "torchattacks")
    assert failed == {"error": "ValueError: torchattacks has no PGD in l1"}
    peer = next(one for one in CONTESTS["pgd"] if one.name == "torchattacks")
    rounds = {"torchattacks": [failed], peer.reference: [result(2, 0.5)]}
    assert summarize(peer, rounds, 8) == {"reference": peer.reference, **failed}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nowhere.pt"], "no file nowhere.pt"),
        (["--model", "tinymodel:nothing"], "the module has no 'nothing'"),
        (["--model", "tinymodel:small"], "cannot take images of 1x32x32: RuntimeError: mat1 and mat2"),
        (["--contest", "pdg"], "did you mean 'pgd'"),
        (["--rounds", "0"], "--rounds 0 is too small"),
        (["--model", "tinymodel:nearest", "--mean", "a,b"], "--mean 'a,b' is not a list of numbers"),
    ],
)
def test_wrong_input_is_one_line(arguments, words, tiny, tmp_path, capsys):
    status, written, printed = bench(tmp_path, capsys, *arguments)
    assert (status, written) == (2, None)
    assert words in printed.err
    assert printed.err.count("\n") == 1
