"""The benchmark measures what it says: contestants that do the same work, a limit that is counted right."""

import json

import pytest
import torch

from robustcls.bench.limits import forward_flops
from robustcls.bench.training import plain, robustcls
from robustcls.data.splits import choose, load_split

TASK = {
    "arch": "vgg16(width=0.05)", "steps": 2, "norm": "linf", "eps": "0.1", "batch_size": 32, "device": "cpu",
    "precision": "fp32", "seed": 0, "updates": 6,
}  # fmt: skip


def test_forward_flops_of_a_convolution_by_hand():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(8 * 64, 5))
    assert forward_flops(model, (3, 8, 8)) == 2 * (8 * 8 * 8 * 3 * 9) + 2 * (8 * 64 * 5)


def test_both_training_contestants_see_the_same_first_loss_and_both_learn():
    images = choose(load_split("digits", "train"), 256)
    ours, theirs = robustcls(images, TASK | {"updates": 24}), plain(images, TASK | {"updates": 24})
    assert ours["losses"][0] == pytest.approx(theirs["losses"][0], rel=0.06)
    late = [sum(result["losses"][12:]) / 12 for result in (ours, theirs)]
    assert max(late) < ours["losses"][0] - 0.2
    assert late[0] == pytest.approx(late[1], abs=0.25)  # other random starts, another order of sums


def test_bench_writes_every_round(tmp_path, capsys):
    from robustcls.cli.main import main

    out = tmp_path / "bench.json"
    arguments = "bench --arch vgg16(width=0.05) --rounds 1 --updates 4 --n 32 --attack-steps 2 --batch-size 32 --quiet"
    with pytest.raises(SystemExit) as stop:
        main([*arguments.split(), "--out", str(out)])
    assert not stop.value.code
    result = json.loads(out.read_text())
    attack = result["suites"]["attack"]["rows"]
    assert attack["robustcls"]["robust_accuracy"] == pytest.approx(attack["foolbox"]["robust_accuracy"], abs=0.1)
    assert result["suites"]["train"]["rows"]["plain fp32 loop"]["ratio"] == 1
    assert all(len(rounds) == 1 for rounds in result["suites"]["train"]["rounds"].values())
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines() if str(tmp_path) not in line) <= 80
