"""Images that occur twice."""

import shutil

import torch

from robustcls.data import duplicates
from robustcls.data.sets.folder import folder
from robustcls.data.splits import load_split, load_training_data
from tests.helpers.drawn import fill


def test_duplicates_of_training_images_are_counted(tmp_path):
    root = fill(tmp_path, n=6)
    assert folder(str(root), "test").note == ""
    for i in range(4):
        shutil.copy(root / "train" / "cat" / f"{i}.png", root / "test" / "cat" / f"copy{i}.png")
    said = "4 of 16 test images are duplicates of training images, such as “test/cat/copy0.png” of “train/cat/0.png”"
    assert said in folder(str(root), "test").note
    assert said in folder(str(root), "train").note
    chosen = load_split(f"folder:{root}", "test", n=3)
    assert "duplicates" not in chosen.note  # the three images have no duplicates
    shutil.copy(root / "train" / "dog" / "5.png", root / "train" / "cat" / "6.png")
    said = "1 image lies under two labels as duplicates, such as “train/cat/6.png” and “train/dog/5.png”"
    assert said in folder(str(root), "train").note


def test_duplicates_across_the_division_of_class_folders(tmp_path):
    root = fill(tmp_path, splits=(".",), n=5)
    for name in ("cat", "dog"):
        for i in range(5):
            for k in range(3):
                shutil.copy(root / name / f"{i}.png", root / name / f"{i}_{k}.png")
    assert "8 of 8 test images are duplicates" in load_split(f"folder:{root}", "test").note
    train, val = load_training_data(f"folder:{root}")
    assert f"{len(val)} of {len(val)} images held out for validation are duplicates" in train.note
    assert val.note == train.note
    assert "duplicates" not in load_split(f"folder:{root}", "test", whole=True).note


def test_pixels_are_compared_not_their_sums():
    base = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    assert duplicates.count_copies(torch.cat([base, base.flip(3), base]), torch.cat([base, base + 1])) == 2


def test_too_much_to_compare_is_said(tmp_path, monkeypatch):
    root = fill(tmp_path)
    shutil.copy(root / "train" / "cat" / "0.png", root / "test" / "cat" / "copy.png")
    monkeypatch.setattr(duplicates, "MOST_BYTES", 10)
    assert "duplicates were not looked for" in folder(str(root), "test").note
