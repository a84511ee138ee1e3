"""The training contests: every row does the same work, memory is measured, and maps equal those of captum."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from experiments.contests.__main__ import command
from experiments.contests.workloads import contestants_of, take_workloads
from robustcls.data.splits import choose, load_split
from tests.helpers import ROOT

TASK = {
    "arch": "vgg16(width=0.05)", "steps": 2, "norm": "linf", "eps": "0.1", "batch_size": 32, "device": "cpu",
    "precision": "fp32", "seed": 0, "updates": 6, "workloads": ["pgd2"],
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.mark.slow
def test_all_training_contestants_see_the_same_first_loss_and_all_learn():
    images, seeds, curves = choose(load_split("digits", "train"), 256), range(3), {}
    for name in contestants_of("linf", CPU)[0]:
        tasks = [TASK | {"seed": seed, "updates": 16} for seed in seeds]
        curves[name] = torch.tensor(
            [take_workloads(images, task | {"contestant": name})["pgd2"]["losses"] for task in tasks]
        ).mean(0)
    plain = curves["plain fp32 loop"]
    for name, curve in curves.items():  # random starts and the order of sums differ
        assert curve[0] == pytest.approx(plain[0].item(), rel=0.06), name
        assert curve[8:].mean() < plain[0] - 0.2, name
        assert curve[8:].mean() == pytest.approx(plain[8:].mean().item(), abs=0.25), name


def test_torchattacks_takes_part_in_linf_where_it_is_installed():
    present, missing = contestants_of("linf", CPU)
    installed = importlib.util.find_spec("torchattacks") is not None
    assert ("torchattacks" in present, missing) == (installed, [] if installed else ["torchattacks"])
    assert contestants_of("l2", CPU) == (["plain fp32 loop", "robustcls"], [])


LEAKY = """
import json
import sys

import torch
from torch import nn

from experiments.contests import epochs
from robustcls.data.images import Images
from robustcls.training.state import TrainState

kept, train_mode = [], TrainState.train_mode


def net(num_classes, input_size):
    flat = nn.Flatten(), nn.Linear(8 * 16, num_classes)
    return nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.ReLU(), *flat)


def leak(state):
    kept.append(torch.ones(64, 3, 32, 32))
    train_mode(state)


if __name__ == "__main__":
    if sys.argv[2] == "leak":
        TrainState.train_mode = leak
    epochs.EPOCHS, epochs.EPOCH_BATCHES = 40, 1
    pixels = torch.randint(256, (500, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.arange(500) % 10, tuple("0123456789"), "noise")
    print(json.dumps(epochs.epochs(images, json.loads(sys.argv[1]))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("how", ["sound", "leak"])
def test_memory_does_not_grow_over_epochs_and_a_batch_kept_in_each_is_seen(how, tmp_path):
    """Resident memory varies by a few of its largest tensors: four sound runs grew by 0.3 to 4 MB over 40 epochs.

    A batch takes 0.75 MB, and four runs that kept 38 batches grew by 28 to 38 MB; hence the threshold of 10 MB.
    """
    (tmp_path / "leaky.py").write_text(LEAKY, encoding="utf-8")
    task = TASK | {"arch": "leaky:net", "batch_size": 64, "val_images": 100}
    leaky = [sys.executable, "leaky.py", json.dumps(task), how]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(leaky, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    memory = measured["memory_per_epoch_mb"]
    assert len(memory) == 40
    assert measured["memory_growth_mb"] == memory[-1] - memory[1]
    assert measured["memory_peak_mb"] >= max(memory)
    assert (measured["memory_growth_mb"] > 10) == (how == "leak"), memory
    assert measured["val_seconds"] > 0


@pytest.mark.slow
def test_contests_write_every_round(tmp_path, capsys):
    from robustcls.cli.main import main

    out = tmp_path / "bench.json"
    arguments = "--arch vgg16(width=0.05) --rounds 1 --updates 4 --n 32 --attack-steps 2 --batch-size 32 --quiet"
    arguments += " --method gradcam"
    with pytest.raises(SystemExit) as stop:
        main([*arguments.split(), "--out", str(out)], command)
    assert not stop.value.code
    result = json.loads(out.read_text())
    attack = result["suites"]["attack"]["rows"]
    assert attack["robustcls"]["robust_accuracy"] == pytest.approx(attack["foolbox"]["robust_accuracy"], abs=0.1)
    assert list(result["suites"]["explain"]["rows"]) == ["gradcam"]
    training = result["suites"]["train"]
    rows = training["rows"]
    assert rows["plain fp32 loop"]["ratio"] == 1
    if "torchattacks" in rows:
        to_torchattacks = rows["robustcls"]["images_per_second"] / rows["torchattacks"]["images_per_second"]
        assert rows["robustcls"]["ratio_to_torchattacks"] == pytest.approx(to_torchattacks)
    assert all(len(rounds) == 1 for rounds in training["rounds"].values())
    assert training["epoch_images"] == len(load_split("digits", "train"))
    assert training["epoch_seconds"] == training["epoch_images"] / rows["robustcls"]["images_per_second"]
    assert training["val_share"] == training["val_seconds"] / training["epoch_seconds"]
    shown = capsys.readouterr().out
    assert "memory over 4 epochs: peak " in shown
    assert max(len(line) for line in shown.splitlines() if str(tmp_path) not in line) <= 80


@pytest.mark.slow
def test_the_contest_explains_as_captum_does():
    from experiments.contests.explaining import captum_loop
    from robustcls.bench.explaining import our_maps
    from robustcls.core.plugins import names
    from robustcls.models.checkpoint import build

    torch.manual_seed(0)
    model = build("vgg11(width=0.1)", classes=list("abcd"), input_size=(3, 16, 16), mean=[0.5], std=[0.25]).eval()
    x, y = torch.rand(2, 3, 16, 16), torch.tensor([1, 3])
    for method in names("attribution"):
        one, other = (make(model, method, x, y, 5) for make in (our_maps, captum_loop))
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item(), msg=method)
