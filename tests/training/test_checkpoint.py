"""The files that a run writes while it trains, and a full disk."""

import json
import signal

import pytest
import torch

from robustcls.cli.main import main
from robustcls.core.config import read_toml, resolve
from robustcls.results.records import Epoch
from robustcls.training.checkpoint import new_folder, read_last, save_config
from robustcls.training.config import TrainConfig
from robustcls.training.history import read_training
from robustcls.training.loop import fit
from tests.helpers.process import python
from tests.helpers.tiny_run import FLAGS, SMALL, same


def test_save_every_writes_between_epochs(make_run):
    run, saved = make_run(**SMALL, adv="none", save_every=2), []

    def look(run):
        progress = read_last(run.folder)[1]["progress"] if (run.folder / "last.pt").exists() else {}
        saved.append((progress.get("epoch"), progress.get("batch")))

    fit(run, look)
    one, two = [(None, None), (None, None), (0, 2), (0, 2), (0, 4)], [(1, 0), (1, 0), (1, 2), (1, 2), (1, 4)]
    assert saved == one + two


FULL = """
import resource, signal, torch
from robustcls.cli.main import main
torch.set_num_threads({threads})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
main(["train", *{flags}, "--out", "full", "--quiet"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on the size of files")
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path):
    flags = [*FLAGS, "--epochs", "2", "--optimizer", "adamw", "--lr", "0.01", "--adv", "fgsm"]
    straight = tmp_path / "straight"
    with pytest.raises(SystemExit, match="0"):
        main(["train", *flags, "--out", str(straight), "--quiet"])
    weights, whole = ((straight / name).stat().st_size for name in ("ckpt.pt", "last.pt"))
    assert whole > 2 * weights  # the first last.pt has no moments yet, so it fits
    done = python(FULL.format(limit=(weights + whole) // 2, flags=flags, threads=torch.get_num_threads()), tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("robustcls: cannot write full/last.pt: ")
    assert done.stderr.count("\n") == 1
    full = tmp_path / "full"
    assert not list(full.glob(".*"))
    assert read_last(full)[1]["progress"]["epoch"] == 0
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--resume", str(full), "--quiet"])
    for name in ("ckpt.pt", "last.pt"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (straight, full))
        for key in one.keys() - {"meta"}:
            assert same(one[key], other[key]), f"{name}: {key}"


def test_the_run_folder(make_run):
    run = make_run(adv="fgsm", track=(), seed=4)
    save_config(run)
    fit(run)
    assert sorted(path.name for path in run.folder.iterdir()) == ["ckpt.pt", "config.toml", "history.jsonl", "last.pt"]
    assert resolve(TrainConfig, read_toml(run.folder / "config.toml")) == run.config
    lines = (run.folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Epoch(**json.loads(line)) for line in lines] == run.state.history
    assert [row.epoch for row in run.state.history] == [1, 2]
    record = read_training(run.folder / "ckpt.pt", torch.load(run.folder / "ckpt.pt", weights_only=True)["meta"])
    assert record.epochs == run.state.history
    assert (record.chosen_epoch, record.val_attack) == (run.state.best_epoch, "pgd(steps=2)")
    assert read_training(run.folder / "ckpt.pt", {"epoch": 9}) is None
    assert read_training(run.folder / "other" / "ckpt.pt", {"epoch": 1}) is None


def test_the_usual_folder_is_named_for_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(data="folder:/some where/pets", arch="vgg16(width=0.25)", adv="pgd(steps=3)")
    parent, name = new_folder(config).parts
    assert parent == "runs"
    assert name.startswith("pets-vgg16-pgd-2")
    assert not list(tmp_path.iterdir())
