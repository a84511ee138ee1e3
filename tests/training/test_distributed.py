"""Two processes on the CPU, started by torchrun or in the same way: gradients, folders, restarts."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.helpers.forked import forked

pytestmark = pytest.mark.slow
QUICK = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
TINY = [
    "--data", "digits(size=8)", "--arch", "tests.helpers.tiny_run:small_cnn", "--limit-train", "160", "--val-n", "40",
    "--val-attack", "pgd(steps=2)", "--batch-size", "32", "--epochs", "2", "--adv", "fgsm(random_start=True)",
    "--device", "cpu", "--seed", "3",
]  # fmt: skip


def torchrun(*arguments, cwd, restarts=0):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", str(restarts), *arguments,
    ]  # fmt: skip
    return subprocess.run(list(map(str, command)), cwd=cwd, env=QUICK, capture_output=True, text=True, timeout=280)


def load(path):
    return torch.load(path, weights_only=True)


GRADIENTS = """
from pathlib import Path

import torch
from tests.helpers.tiny_run import tiny_run

from robustcls.data.splits import load_training_data
from robustcls.data.unlabelled import load_unlabelled
from robustcls.runtime.world import end_process, join_world
from robustcls.training.run import Run
from robustcls.training.config import TrainConfig

world = join_world()
gradients = {}
for objective, accumulate, spec in (("adversarial(mix=0.5)", 1, None), ("mart", 2, None), ("alp", 2, "rest")):
    config = TrainConfig(
        data="digits(size=8)", arch="no_norm:net", adv="fgsm", augment="none", limit_train=160, batch_size=32,
        objective=objective, step="once", accumulate=accumulate, device="cpu", precision="fp32", eps="0.1", seed=3,
        unlabelled=spec,
    )
    train, val = load_training_data(config.data, limit_train=160)
    like = {"data": config.data, "classes": train.classes, "size": train.pixels.shape[1:], "limit_train": 160}
    unlabelled = load_unlabelled(spec, **like) if spec else None
    run = Run(config, Path("unused"), train, val, world, unlabelled=unlabelled)
    run.state.train_mode()
    x, y = next(iter(run.batches()))
    run.state.gradient(x, y, run.state.attack)
    gradients[objective] = world.size, len(x), [parameter.grad for parameter in run.state.model.parameters()]
if world.first:
    torch.save(gradients, f"{world.size}.pt")
end_process(0)
"""
NO_NORM = """
from torch import nn

def net(num_classes, input_size):
    layers = [nn.Conv2d(input_size[0], 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32, num_classes))
"""


def test_two_processes_give_the_gradients_of_one(tmp_path):
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    (tmp_path / "no_norm.py").write_text(NO_NORM)
    done = forked((1, 2), "gradients.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, halves = load(tmp_path / "1.pt"), load(tmp_path / "2.pt")
    assert len(found) == len(halves) == 3
    for objective, (processes, images, gradients) in found.items():
        assert (processes, images) == (1, 32)
        assert halves[objective][:2] == (2, 16)
        for one, two in zip(gradients, halves[objective][2], strict=True):
            assert one.abs().max() > 1e-4
            assert torch.allclose(one, two, atol=1e-6), objective


def test_torchrun_trains(tmp_path):
    done = torchrun(
        "-m", "robustcls", "train", *TINY, "--step", "awp(warmup=0.2)", "--ema", "0.9", "--out", "run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1  # only one process prints
    assert "2 processes, 16 images each" in done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "ckpt.pt",
        "config.toml",
        "history.jsonl",
        "last.pt",
    ]
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert rows[1]["val_clean"] * 40 == pytest.approx(round(rows[1]["val_clean"] * 40), abs=1e-9)  # on all 40 images


def test_a_restart_of_torchrun_goes_on_by_itself_to_the_same_end(tmp_path):
    options = [*TINY, "--adv", "none", "--step", "free(replays=2)", "--save-every", "2"]
    straight = forked((2,), "robustcls", "train", *options, "--out", "straight", cwd=tmp_path)
    assert straight.returncode == 0, straight.stderr
    (tmp_path / "dying.py").write_text(DYING)
    done = torchrun("dying.py", "train", *options, "--out", "cut", cwd=tmp_path, restarts=2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert "best epoch" in done.stdout
    one, other = (load(tmp_path / name / "last.pt") for name in ("straight", "cut"))
    assert all(torch.equal(tensor, other["state_dict"][name]) for name, tensor in one["state_dict"].items())


DYING = """
import os, signal
from pathlib import Path

from robustcls.training.state import TrainState

train_step = TrainState.train_step

def dying(state, x, y):
    train_step(state, x, y)
    if (state.epoch, state.batch, state.world.rank) == (1, 3, 1) and not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

TrainState.train_step = dying
from robustcls.cli.main import main
main()
"""


def test_two_processes_want_a_folder_that_all_agree_on(tmp_path):
    done = forked((2,), "robustcls", "train", *TINY, cwd=tmp_path)
    assert done.returncode != 0
    assert "give --out DIR" in done.stderr
    assert not (tmp_path / "runs").exists()
