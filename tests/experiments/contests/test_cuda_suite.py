"""The suite `cuda`, tiny and on the CPU: operations are counted correctly, ratios are within rounds, failures have rows."""

import json
import runpy
import sys

import pytest
import torch

from experiments.contests import workloads
from experiments.contests.__main__ import command
from experiments.contests.attacking import EXACT
from experiments.contests.cuda_suite import _training_rows, agreement
from experiments.contests.tables import BASELINE, cuda
from experiments.contests.workloads import plain_loss, take_workloads
from robustcls.bench import training
from robustcls.bench.attacking import ways_of
from robustcls.cli.console import table
from robustcls.cli.main import main
from robustcls.core.threat import ThreatModel
from robustcls.data.splits import choose, load_split
from robustcls.models.checkpoint import build
from tests.helpers import ROOT

TASK = {
    "arch": "vgg16(width=0.05)", "norm": "linf", "eps": "0.1", "batch_size": 32, "device": "cpu", "precision": "fp32",
    "seed": 0, "updates": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return choose(load_split("digits", "train"), 64)


WORKLOADS = ["clean", "fgsm_rs", "pgd2", "trades2"]


def waves(threat, x, generator=None):
    """Replace the random start by a fixed one, the same for both loops."""
    return threat.project(x + threat.eps / 2 * torch.sin(1000 * x + torch.arange(x[0].numel()).view(x[0].shape)), x)


def weights_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_first_update_of_our_loop_is_that_of_the_plain_one(workload, images, monkeypatch):
    """In fp32 and from the same starts, they differ only in the order of summation, because one of them uses channels_last.

    On any processor, the difference is 1e-6 of the loss and at most 5e-3 of the update, because a gradient that is nearly
    zero may change its sign. Later updates are not compared: each multiplies the difference by about 50, so that even the
    same loop differs by several percent between two processors at the fifth update.
    """
    begun = []

    def spy(*arguments, make=workloads.make_run, **options):
        run = make(*arguments, **options)
        begun.append((run.state.model, weights_of(run.state.model)))
        return run

    monkeypatch.setattr(ThreatModel, "random_start", waves)
    for module in (training, workloads):
        monkeypatch.setattr(module, "make_run", spy)
    plain, ours = (
        take_workloads(images, TASK | {"contestant": name, "workloads": [workload], "updates": 1})[workload]["losses"]
        for name in (BASELINE, "robustcls")
    )
    assert ours[0] == pytest.approx(plain[0], rel=1e-4)
    theirs, own = (weights_of(model) - first for model, first in begun)
    assert (own - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.slow
@pytest.mark.parametrize("contestant", [BASELINE, "robustcls"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_our_loop_and_the_plain_one_learn(workload, contestant, images):
    """Each loop is tested by itself. With three seeds, the loss fell by 0.24 or more, with AVX2 and with AVX-512."""
    losses = take_workloads(images, TASK | {"contestant": contestant, "workloads": [workload], "updates": 16})
    losses = torch.tensor(losses[workload]["losses"])
    assert losses[8:].mean() < losses[0] - 0.1


def test_the_attack_of_the_plain_loop_raises_the_divergence(images):
    threat = ThreatModel("linf", 0.1)
    model = build(TASK["arch"], classes=images.classes, input_size=images.pixels.shape[1:])
    x, y = images.batch()
    loss = plain_loss("trades2", threat, torch.Generator().manual_seed(0))(model, x, y)
    assert loss > torch.nn.functional.cross_entropy(model.train()(x), y)


def test_a_workload_that_fails_leaves_the_others_their_numbers(images, monkeypatch):
    def fails_on_clean(workload, *_, **__):
        if workload == "clean":
            raise RuntimeError("CUDA out of memory\nTried to allocate")
        return {"images_per_second": 2.0, "precision": "fp32", "losses": [1.0], "peak_memory_mb": 1.0}

    monkeypatch.setitem(workloads.CONTESTANTS, "robustcls", fails_on_clean)
    found = take_workloads(images, TASK | {"contestant": "robustcls", "workloads": ["clean", "pgd10"]})
    assert found["clean"] == {"error": "RuntimeError: CUDA out of memory Tried to allocate"}
    plain = {"clean": found["pgd10"], "pgd10": found["pgd10"] | {"images_per_second": 4.0}}
    rounds = {BASELINE: [plain], "robustcls": [found]}
    assert _training_rows("clean", rounds, 10.0)["robustcls"] == found["clean"]
    row = _training_rows("pgd10", rounds, 10.0)["robustcls"]
    assert (row["ratio"], row["flop_per_second"]) == (0.5, 20.0)


NET = """
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
"""


def row(accuracy):
    return {"robust_accuracy": accuracy, "seconds": 1.0}


def test_agreement():
    rows = {"plain fp32 loop": row(0.9), "robustcls": row(0.5), EXACT: row(0.5), "robustcls, bf16 first": row(0.4971)}
    found = agreement(rows, 1000)
    assert found["status"] == "pass"
    assert found["points"] == pytest.approx({"robustcls": 0.0, "robustcls, bf16 first": -0.29})
    assert agreement(rows | {"robustcls": row(0.504)}, 1000)["status"] == "fail"
    assert agreement(rows, 300)["status"] == "not_run"
    assert "one sample of 300" in agreement(rows, 300)["reason"]
    failed = {"error": "out of memory"}
    assert agreement(rows | {"robustcls": failed}, 1000)["status"] == "not_run"
    assert agreement(rows | {EXACT: failed}, 1000)["status"] == "not_run"


@pytest.mark.slow
def test_the_suite_on_the_cpu(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    arguments = "--suite cuda --arch vgg16(width=0.05) --updates 4 --batch-size 16 --n 10"
    arguments += " --model net:small --workload clean --workload pgd20 --out bench.json"
    with pytest.raises(SystemExit) as stop:
        main(arguments.split(), command)
    assert not stop.value.code
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "bench.json").read_text())
    suite = result["suites"]["cuda"]["vgg16(width=0.05)"]
    assert list(suite["training"]["rows"]) == ["clean"]
    rows, rounds = suite["training"]["rows"]["clean"], suite["training"]["rounds"]
    speeds = [rounds[name][0]["clean"]["images_per_second"] for name in ("robustcls", BASELINE)]
    assert rows["robustcls"]["ratio"] == speeds[0] / speeds[1]
    assert rows["robustcls"]["flop_per_second"] == speeds[0] * suite["training"]["flops_per_image"]["clean"]
    contest = suite["evaluation"]["pgd20"]
    ways = {"exact": EXACT, "bf16": "robustcls, bf16 first"}
    assert {ways[way] for way in ways_of(torch.device("cpu"))} <= set(contest["rows"])
    assert contest["agreement"]["status"] == "not_run"
    assert contest["rows"]["robustcls"]["flop_per_second"] > 0
    assert set(result["matrix_rates"]) == set(result["matrix_rates_at_the_end"])
    assert max(map(len, printed.splitlines())) <= 80
    monkeypatch.setattr(sys, "argv", ["tables.py", "bench.json"])
    runpy.run_path(str(ROOT / "experiments" / "contests" / "tables.py"), run_name="__main__")
    assert capsys.readouterr().out.strip() == printed.partition("\n\nbench.json")[0].strip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--suite cuda --attack-steps 3", "measures pgd20"),
        ("--suite cuda --model m.pt", "give its --arch"),
        ("--suite train --workload clean", "is an option of --suite cuda"),
        ("--suite cuda --workload pgd", "did you mean"),
        ("--suite cuda --model nowhere.pt --arch vgg16(width=0.05)", "no file nowhere.pt"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split(), command)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_a_contest_that_nobody_finishes_is_told_in_its_place():
    failed = {"a": {"training": {}, "evaluation": {"pgd20": {"error": "no contestant of pgd finished"}}}}
    assert cuda(failed, table, 1e9) == "pgd20: no contestant of pgd finished"
