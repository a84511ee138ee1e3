"""Interrupted evaluations, and evaluations that several processes share."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

SPECS = ("--attack", "pgd(steps=3)", "--attack", "apgd_t(steps=8)", "--eps-grid", "0.02,0.1", "--batch-size", 8)


def result(file) -> dict:
    """Return the JSON without times and without the command line."""
    whole = json.loads(file.read_text(encoding="utf-8"))
    for key in ("started", "seconds", "command"):
        del whole["provenance"][key]
    for attack in whole["attacks"]:
        del attack["seconds"]
    return whole


def start(*arguments, launcher=("-m", "tests.helpers.short_checks")) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    command = [sys.executable, *launcher, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> None:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
    """Return the arguments and the folder of an uninterrupted evaluation by one process."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = ("attack", "--model", home / "pgd" / "ckpt.pt", *SPECS, "-n", 64, "--device", "cpu")
    finish(start(*arguments, "--out", folder / "e.json", "--save-examples", folder / "e.npz"))
    return arguments, folder


@pytest.mark.parametrize("attack", ["interrupt_second", "terminate"])
def test_ctrl_c_and_sigterm_keep_what_is_done(attack, cli, home, tmp_path):
    import my_plugins

    my_plugins.calls = my_plugins.batches = 0  # tests of other files count, too
    before = signal.getsignal(signal.SIGTERM)
    arguments = ("attack", "--model", home / "pgd" / "ckpt.pt", "--n", 200, "--batch-size", 16, "--out", "e.json")
    arguments += ("--attack", "pgd(steps=2)", "--attack", f"my_plugins:{attack}")
    result = cli(*arguments)
    assert result.status == 130
    assert signal.getsignal(signal.SIGTERM) == before
    assert "--resume" in result.err
    here = tmp_path / "here"
    assert [path.name for path in here.iterdir()] == ["e.json.partial"]
    result = cli(*arguments, "--resume")
    assert result.status == 0, result.err
    assert [path.name for path in here.iterdir()] == ["e.json"]


def test_another_command_does_not_resume_it(cli, home, tmp_path):
    arguments = ("attack", "--model", home / "pgd" / "ckpt.pt", "--n", 200, "--batch-size", 16, "--out", "e.json")
    assert cli(*arguments, "--attack", "pgd(steps=2)", "--attack", "my_plugins:interrupt").status == 130
    result = cli(*arguments, "--attack", "pgd(steps=3)", "--resume")
    assert result.status == 2
    assert "another attacks" in result.err
    assert len(result.err.strip().splitlines()[-1].split("robustcls: ")) == 2
    assert (tmp_path / "here" / "e.json.partial" / "task.json").exists()


def test_nothing_to_resume_is_a_start(cli, home, tmp_path):
    result = cli(
        "attack", "--model", home / "pgd" / "ckpt.pt", "--n", 20, "--attack", "fgsm", "--resume", "--out", "e.json"
    )
    assert result.status == 0, result.err


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path):
    arguments, folder = whole
    process = start(*arguments, "--out", tmp_path / "e.json", "--save-examples", tmp_path / "e.npz")
    while len(list((tmp_path / "e.json.partial").glob("[0-9]*.pt"))) < 6:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "e.json").exists()
    finish(start(*arguments, "--out", tmp_path / "e.json", "--save-examples", tmp_path / "e.npz", "--resume"))
    assert result(tmp_path / "e.json") == result(folder / "e.json")
    with np.load(tmp_path / "e.npz") as again, np.load(folder / "e.npz") as before:
        assert all(np.array_equal(again[name], before[name]) for name in before)
    assert not (tmp_path / "e.json.partial").exists()


@pytest.mark.slow
def test_two_processes_equal_one(whole, tmp_path):
    arguments, folder = whole
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    finish(start(*arguments, "--out", tmp_path / "e.json", launcher=(*torchrun, "-m", "tests.helpers.short_checks")))
    assert result(tmp_path / "e.json") == result(folder / "e.json")
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]
