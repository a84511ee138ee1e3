"""A run that is killed with kill -9 at ten random moments and resumed ends bit-equal to an uninterrupted one."""

import json
import os
import subprocess
import sys

import pytest
import torch

# One process imports torch once and forks each run; the parent kills its child after a random time.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path

from robustcls.cli.main import main
import robustcls.training.run, sklearn.datasets, torch._dynamo  # and all that is slow to import, before the fork

def start(*arguments):
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        try:
            main(list(arguments))
        except SystemExit as stop:
            os._exit(stop.code or 0)
    return child

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def written():
    try:
        return Path("killed/last.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0

options, seed = json.loads(sys.argv[1]), int(sys.argv[2])
assert end(start("train", *options, "--out", "straight")) == 0
random.seed(seed)
arguments, kills = ("train", *options, "--out", "killed"), 0
for _ in range(10):
    before, child = written(), start(*arguments)
    while written() == before:  # so that it comes a little further each time
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.2))
    os.kill(child, signal.SIGKILL)
    kills += end(child) == -signal.SIGKILL
    arguments = ("train", "--resume", "killed")
print(kills)
assert end(start("train", "--resume", "killed")) == 0
"""

OPTIONS = [
    "--data", "digits(size=8)", "--arch", "tests.helpers.tiny_run:small_cnn", "--limit-train", "320", "--val-n", "20",
    "--val-attack", "fgsm",
    "--batch-size", "32", "--epochs", "10", "--adv", "pgd(steps=2)", "--augment", "crop_flip(pad=1)+cutmix", "--device",
    "cpu", "--objective", "trades(beta=2)", "--step", "awp(warmup=0.2)", "--ema", "0.9", "--save-every", "3",
]  # fmt: skip


@pytest.mark.slow
def test_killed_ten_times_it_ends_bit_equal(tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "killer.py", json.dumps(OPTIONS), "4"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 10
    for name in ("ckpt.pt", "last.pt"):
        one, other = (torch.load(tmp_path / run / name, weights_only=True) for run in ("straight", "killed"))
        assert all(torch.equal(tensor, other["state_dict"][key]) for key, tensor in one["state_dict"].items()), name
        assert one["state_dict"].keys() == other["state_dict"].keys()
    assert not list((tmp_path / "killed").glob("*.part.*"))
