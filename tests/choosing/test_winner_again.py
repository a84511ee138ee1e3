"""The winner is trained again with the same recipe: with other seeds, and on parts of its images."""

import tomllib

import numpy as np
import pytest
import torch
from PIL import Image

import robustcls
from robustcls.core.errors import InputError
from tests.choosing.conftest import NETS


def recipes(folder, *texts):
    files = [folder / f"{name}.toml" for name in "ab"[: len(texts)]]
    for file, text in zip(files, texts, strict=True):
        file.write_text(f'augment = "none"\n{text}', encoding="utf-8")
    return files


def planned(choice, trial):
    return tomllib.loads((choice.home / trial.folder / "config.toml").read_text(encoding="utf-8"))["epochs"]


def test_a_winner_that_stopped_early_is_planned_as_it_was(options, tmp_path, monkeypatch):
    """With a learning rate of nearly 0 nothing is learned, so `patience` stops both candidates after 2 of 12 epochs."""
    monkeypatch.setattr("robustcls.choosing.work.epochs_that_fit", lambda *_: 12)
    text = f'arch = "{NETS[2]}"\nlr = 1e-30\nmomentum = 0.0\npatience = 1\n'
    files = recipes(tmp_path, text, text)
    choice = robustcls.choose(config=files, **options | {"seed_noise": 2, "learning_curve": True})
    best = choice.best
    assert (best.epochs, best.planned_epochs) == (2, 12)
    assert best.stopped
    assert [planned(choice, trial) for trial in choice.seeds] == [12, 12, 12]
    each = [max(1, images // 32) for images in (40, 80)]  # updates per epoch
    assert [planned(choice, trial) for trial in choice.curve] == [round(12 * 5 / updates) for updates in each] + [12]


def test_epochs_that_were_undone_do_not_count(options, tmp_path, monkeypatch):
    monkeypatch.setattr("robustcls.choosing.work.epochs_that_fit", lambda *_: 3)
    # The second epoch that ends counts as a collapse, whatever its number.
    monkeypatch.setattr("robustcls.training.loop.catastrophes", lambda history: (1,) if len(history) == 2 else ())
    text = f'arch = "{NETS[0]}"\non_collapse = "rollback"\n'
    choice = robustcls.choose(config=recipes(tmp_path, text, text), **options)
    best = choice.best
    lines = (choice.home / best.folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    assert (best.epochs, best.planned_epochs, best.updates) == (3, 3, 15)


def draw(path, seed, deep):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    colour = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(generator.integers(0, 4096, (12, 12), dtype=np.uint16) if deep else colour).save(path)


@pytest.mark.parametrize(("form", "deep"), [("size=8, grey=True", False), ("scale=4095", True)])
def test_unlabelled_images_of_a_folder_are_the_same_under_every_seed(form, deep, tmp_path, options):
    """Images are 12 x 12. If the scale of 16-bit images were forgotten, their size would be right, but not their pixels."""
    folders = tmp_path
    for number in range(80):
        draw(folders / "fd" / "ab"[number % 2] / f"{number}.png", number, deep)
        draw(folders / "fu" / f"{number}.png", 1000 + number, deep)
    options |= {
        "data": f"folder:{folders}/fd({form})",
        "seed_noise": 1,
        "val_n": 6,
        "batch_size": 16,
        "limit_train": 32,
    }
    text = f'arch = "{NETS[2]}"\nunlabelled = "folder:{folders}/fu"\nobjective = "trades"\n'
    options["adv"] = "fgsm(random_start=True)"
    choice = robustcls.choose(config=recipes(folders, text, text), **options)
    first, again = (
        torch.load(choice.home / trial.folder / "last.pt", weights_only=True)["data"].split() for trial in choice.seeds
    )
    assert len(first) == 3  # the hashes of training, validation and unlabelled images
    assert first == again


def test_a_folder_of_a_training_run_is_not_written_into(options, tmp_path):
    teacher = tmp_path / "teacher"
    for name in ("ckpt.pt", "last.pt"):
        teacher.mkdir(exist_ok=True)
        (teacher / name).write_bytes(b"weights")
        with pytest.raises(InputError, match=r"teacher already holds a run of `robustcls train`: name another `out`"):
            robustcls.choose(NETS[:2], **options | {"out": teacher})
        assert [one.name for one in teacher.iterdir()] == [name]
        (teacher / name).unlink()
