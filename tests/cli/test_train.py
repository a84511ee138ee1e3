"""`robustcls train`: its output and configuration, and how it is stopped and resumed."""

import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from robustcls.cli.train import HEADER, Progress, describe
from robustcls.core.config import read_toml
from robustcls.core.threat import ThreatModel
from robustcls.results.records import Epoch
from robustcls.runtime.world import World
from robustcls.training.recipe import configure

TINY = (
    "--data", "digits(size=8)", "--arch", "vgg16(width=0.05)", "--limit-train", "96", "--val-n", "20",
    "--val-attack", "fgsm", "--batch-size", "32", "--device", "cpu",
)  # fmt: skip


def history(folder):
    timed = ("seconds", "val_seconds", "images_per_second")
    rows = map(json.loads, (folder / "history.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def test_a_run_prints_its_epochs_and_says_where_it_is(cli, tmp_path):
    result = cli("train", *TINY, "--adv", "fgsm", "--epochs", 2, "--out", "run")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert lines[:2] == HEADER.splitlines()
    assert re.match(r"^  1/2  .* \d+\.\d% ", lines[2])
    assert "only 3 updates per epoch, 6 in the run" in result.out
    assert re.match(r"best epoch [12]: clean \d+\.\d%, robust \d+\.\d%$", lines[-3])
    assert re.fullmatch(
        r"by accuracy under fgsm on 20 validation images; 95% interval \[\d+\.\d%, \d+\.\d%\]", lines[-2]
    )
    assert lines[-1] == "run/ckpt.pt"
    assert max(map(len, lines)) <= 80
    notes = result.err.splitlines()
    assert notes[0] == "data      digits(size=8): 96 training, 20 validation images"
    assert notes[2] == "training  adversarial, attack fgsm, linf:0.15, 2 epochs, batch 32"  # eps of the recipe
    assert notes[-1] == "next: robustcls attack --model run/ckpt.pt"
    assert max(map(len, notes)) <= 80


def test_quiet_prints_the_result_alone(cli):
    result = cli("train", *TINY, "--adv", "none", "--epochs", 1, "--out", "run", "--quiet")
    assert (result.status, result.err) == (0, "")
    printed = [line.split()[0] for line in result.out.splitlines() if not line.startswith(" ")]
    assert printed == ["only", "the", "best", "by", "run/ckpt.pt"]  # the warning is part of the result
    assert "the model has learned nothing: clean validation accuracy" in result.out


@pytest.mark.slow
def test_few_images_and_first_weights_get_a_batch_and_a_rate_that_fit(cli, tmp_path):
    small = ("--data", "digits(size=8)", "--arch", "vgg16(width=0.05)", "--limit-train", 96, "--epochs", 1)
    small += ("--val-n", 20, "--device", "cpu", "--adv", "none", "--val-attack", "none")
    assert cli("train", *small, "--out", "first").status == 0
    result = cli("train", *small, "--init", "first/ckpt.pt", "--out", "run")
    assert result.status == 0, result.err
    words = "fine-tuning on 96 images: batch 8, for 12 updates an epoch; lr 0.00125 = 0.1 x 8/64 (batch) x 0.1 (--init)"
    assert f"recipe {words}" in " ".join(result.err.split())
    folder = tmp_path / "here" / "run"
    assert (folder / "config.toml").read_text(encoding="utf-8").startswith(f"# {words}\n")
    written = read_toml(folder / "config.toml")
    assert (written["batch_size"], written["lr"]) == (8, 0.00125)
    again = cli("train", "--config", folder / "config.toml", "--out", "again")
    assert "recipe" not in again.err  # the configuration sets all options
    assert history(folder) == history(tmp_path / "here" / "again")


def test_a_run_that_began_otherwise_goes_on_as_it_began(cli, tmp_path):
    """The resumed run takes batch size and learning rate from last.pt, whatever the recipe would choose."""
    given = ("--batch-size", 48, "--lr", 0.2)
    assert cli("train", *TINY, "--adv", "none", "--epochs", 2, *given, "--out", "run").status == 0
    folder = tmp_path / "here" / "run"
    before = history(folder)
    progress = torch.load(folder / "last.pt", weights_only=True)
    progress["meta"]["config"]["epochs"] = 3
    torch.save(progress, folder / "last.pt")
    result = cli("train", "--resume", "run")
    assert result.status == 0, result.err
    assert "recipe" not in result.err
    assert history(folder)[:2] == before
    meta = torch.load(folder / "last.pt", weights_only=True)["meta"]["config"]
    assert (meta["batch_size"], meta["lr"]) == ("48", 0.2)


def test_without_robust_validation_a_dash_stands_for_it(cli):
    result = cli("train", *TINY, "--adv", "fgsm", "--val-attack", "none", "--epochs", 1, "--out", "run")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    row = next(line for line in lines if line.startswith("  1/1"))
    assert row.split()[-4:-1] == ["-", "-", "-"]  # robust, fgsm, gap
    assert any(line.startswith("best epoch 1: clean") and line.endswith("robust not measured") for line in lines)
    assert "by accuracy without an attack on 20 validation images; 95% interval" in result.out


def test_the_configuration_of_a_run_makes_the_same_run(cli, tmp_path):
    first = cli("train", *TINY, "--adv", "fgsm", "--epochs", 1, "--seed", 7, "--ema", 0.5, "--out", "one")
    second = cli("train", "--config", "one/config.toml", "--out", "two")
    assert (first.status, second.status) == (0, 0), second.err
    one, two = tmp_path / "here" / "one", tmp_path / "here" / "two"
    assert history(one) == history(two)
    assert read_toml(one / "config.toml") | {"out": "two"} == read_toml(two / "config.toml")
    assert cli("train", "--config", "one/config.toml").status == 2  # no run overwrites another
    weights = [torch.load(folder / "ckpt.pt", weights_only=True)["state_dict"] for folder in (one, two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_defaults_give_way_to_the_recipe_the_file_and_the_flags():
    config = configure({}, {})
    assert (config.eps, config.epochs, config.adv, config.lr) == ("0.15", 12, "pgd(steps=5)", 0.1)  # of digits
    config = configure({"epochs": 2}, {"epochs": 3, "lr": 0.5})
    assert (config.eps, config.epochs, config.lr) == ("0.15", 2, 0.5)
    assert configure({"data": "cifar10"}, {}).eps == "8/255"
    assert configure({"eps": "0.5"}, {"norm": "l2"}).eps == "0.5"  # the recipe's radius is for its own norm only


def test_a_finished_run_says_so(cli, home):
    result = cli("train", "--resume", home / "pgd")
    assert (result.status, result.out) == (0, "")
    assert result.err.splitlines()[-1].endswith("is finished: 3 of 3 epochs")


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    arguments = [sys.executable, "-m", "robustcls", "train", *TINY, "--adv", "fgsm", "--epochs", "15", "--out", "run"]
    quick = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=quick, **pipes)
    line = ""
    while not line.startswith("  2/15"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted and saved; continue with: robustcls train --resume run"
    assert "Traceback" not in err
    progress = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["progress"]
    assert 2 <= progress["epoch"] < 15
    assert not list((tmp_path / "run").glob("*.part"))
    resume = [*arguments[:3], "train", "--resume", "run"]
    again = subprocess.run(resume, cwd=tmp_path, env=quick, timeout=120, **pipes)
    assert again.returncode == 0, again.stderr
    first = next(line for line in again.stdout.splitlines() if "/15" in line)
    assert first.split("/")[0].strip() == str(progress["epoch"] + 1)
    assert [row["epoch"] for row in history(tmp_path / "run")] == list(range(1, 16))


# The widest lines


def fake_run(**options):
    config = SimpleNamespace(
        data="folder:/home/somebody/data sets/retina photographs of 2024", arch="mylab.networks:wide_resnet(depth=34)",
        step="free(replays=4)", eps_ramp=None, train_eps=None, objective="adversarial",
        adv="pgd(steps=10, step_size=0.00784313725490196, restarts=2)", epochs=300, quiet=False,
        val_n=2000, makes_examples=False, is_adversarial=True,
    )  # fmt: skip
    training = SimpleNamespace(
        classes=range(1000), note="12 corrupt files skipped; 37 sizes: shorter side resized to 224"
    )
    state = SimpleNamespace(model=torch.nn.Linear(2000, 20000), num_batches=10, epoch=0, batch=0, stopped="")
    return SimpleNamespace(
        config=config, state=state, train=Sized(training, 1281167), val=range(50000),
        threat=ThreatModel("linf", 0.0156863), batch_size=4096, device=torch.device("cpu"), precision="bf16", folder="runs/x",
        images_per_batch=4096, images_seen=0, notes={}, remark="", assumed="", world=World(), mixed=None,
    )  # fmt: skip


class Sized:
    def __init__(self, content, length):
        self.__dict__.update(content.__dict__)
        self.length = length

    def __len__(self):
        return self.length


def test_the_widest_description_fits():
    run = fake_run()
    run.state.model.input_size = (3, 224, 224)
    lines = describe(run).splitlines()
    assert max(map(len, lines)) <= 80
    starts = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert starts == ["data", "model", "training", "input", "device", "folder"]
    assert all(line.startswith(" " * 10) for line in lines if line.startswith(" "))
    assert "2000 validation images" in describe(run)


@pytest.mark.parametrize(
    "row",
    [
        Epoch(300, 1.2345e-05, 123.4567, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 123456.7),
        Epoch(1, 10.0, 2.302, 0.1, None, 0.1, 0.0, 0.05, 1.0, 9.2),
    ],
)
def test_the_widest_epoch_fits_and_stands_under_its_header(row, capsys):
    with Progress(fake_run()) as progress:
        progress.epoch(row)
        progress.epoch(row)
    groups, header, line, again = capsys.readouterr().out.splitlines()
    assert line == again
    assert max(map(len, (groups, header, line))) <= 80
    columns = [match.end() for match in re.finditer(r"\S+", header)][1:]
    assert [match.end() for match in re.finditer(r"\S+", line)][1:] == columns
    assert groups.rstrip().endswith("--")
    assert groups.index("--") < header.index("clean") + 5 < groups.index("validation")
