"""Folders of images on the command line: which images are used, messages, and redacted names."""

import shutil

import numpy as np
import pytest
from PIL import Image

from robustcls.results.records import Evaluation, Measures

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
"""
NOISE = ("--attack", "noise", "--eps", "8/255", "--device", "cpu")
LOOK = ("--curves-n", 0, "--minimum-n", 0, "--corruptions-n", 0, "--maps-n", 0, "--checks", "passive", "--examples", 4)


@pytest.fixture
def photos(cli, tmp_path):
    """Make 20 photos in two class folders, and a network of the user's own; return the folder of the photos."""
    (tmp_path / "my_net.py").write_text(NET)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    for i in range(20):
        path = tmp_path / "here" / "photos" / ("cat", "dog")[i % 2] / f"secret{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(path)
    return tmp_path / "here" / "photos"


def judge(cli, *options):
    result = cli("attack", "--model", "my_net:net", *NOISE, "--out", "e.json", *options)
    assert result.status == 0, result.err
    return Evaluation.load("e.json"), result


def test_class_folders_alone_are_all_judged(cli, photos):
    evaluation, result = judge(cli, "--data", "folder:photos")
    assert (evaluation.data.n, evaluation.data.available) == (20, 20)
    assert "all 20 images are the test split" in evaluation.data.note
    assert "all 20 images" in " ".join(result.err.split())
    assert len(judge(cli, "--data", "folder:photos(whole=False)")[0].samples) == 4


def test_a_model_is_judged_on_what_its_training_left_out(cli, photos):
    options = ("--data", "folder:photos", "--arch", "vgg11(width=0.05)", "--adv", "none", "--epochs", 1)
    result = cli("train", *options, "--batch-size", 4, "--augment", "none", "--device", "cpu", "--out", "run")
    assert result.status == 0, result.err
    for data in ((), ("--data", "folder:./photos"), ("--data", f"folder:{photos}")):
        result = cli("attack", "--model", "run/ckpt.pt", *NOISE, *data, "--out", "own.json")
        assert result.status == 0, result.err
        evaluation = Evaluation.load("own.json")
        assert len(evaluation.samples) == 4, data
        assert "20% that training leaves out" in evaluation.data.note
    shutil.copytree(photos, photos.parent / "others")
    result = cli("attack", "--model", "run/ckpt.pt", *NOISE, "--data", "folder:others", "--out", "other.json")
    assert Evaluation.load("other.json").data.n == 20


def test_samples_have_file_names(cli, photos):
    evaluation, _ = judge(cli, "--data", "folder:photos", "--n", 6, "--save-examples", "x.npz")
    assert [sample.file for sample in evaluation.samples] == [
        *(f"cat/secret{i:02d}.png" for i in (0, 2, 4)),
        *(f"dog/secret{i:02d}.png" for i in (1, 3, 5)),
    ]
    broken = [sample.file for sample in evaluation.samples if sample.broken_by]
    assert np.load("x.npz").get("files", np.array([])).tolist() == broken
    result = cli(
        "explain", "--model", "my_net:net", "--data", "folder:photos", *NOISE, "--method", "saliency", "--out", "m"
    )
    assert result.status == 0, result.err
    assert np.load("m/maps.npz")["files"].tolist() == Measures.load("m/measures.json").files


def test_names_are_redacted_from_every_file(cli, photos, tmp_path):
    (photos / "cat" / "secret99.png").write_text("no image")
    (photos / "cat" / "secret.txt").write_text("")
    options = ("--model", "my_net:net", "--data", "folder:photos", *NOISE, "--skip-corrupt")
    shown = cli("report", *options, *LOOK, "--model-card")
    assert shown.status == 0, shown.err
    assert "cat/secret99.png" in Evaluation.load("evaluation.json").data.note
    assert Evaluation.load("evaluation.json").data.skipped == ["cat/secret99.png"]
    assert "cat/secret00.png" in (photos.parent / "report.html").read_text(encoding="utf-8")
    again = cli("report", "evaluation.json", "--redact-names", "--out", "r.html", "--model-card")
    left = "the names of image files are left out of the page alone: evaluation.json still holds them"
    assert left in " ".join(again.err.split())
    both = cli("report", "evaluation.json", "--redact-names", "--redact-images", "--out", "both.html")
    assert left in " ".join(both.err.split())
    assert again.status == 0, again.err
    assert "secret" not in (photos.parent / "r.html").read_text(encoding="utf-8")
    assert "secret" not in (photos.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    for path in photos.parent.iterdir():
        if path.is_file():
            path.unlink()
    hidden = cli("report", *options, *LOOK, "--model-card", "--redact-names")
    assert hidden.status == 0, hidden.err
    written = [path for path in photos.parent.iterdir() if path.is_file()]
    assert len(written) >= 3
    for path in written:
        assert b"secret" not in path.read_bytes(), path.name
    assert "secret" not in hidden.err + hidden.out
    assert Evaluation.load("evaluation.json").samples[0].file is None
    assert "1 corrupt file skipped" in Evaluation.load("evaluation.json").data.note


def test_names_that_are_no_utf8_end_no_command(cli, photos):
    (photos / "cat").rename(photos / "caf\udce9")
    photos = photos.rename(photos.parent / "fot\udcf6s")
    options = ("--model", "my_net:net", "--data", f"folder:{photos}", *NOISE)
    for command in (
        ("attack", *options, "--out", "e.json"),
        ("explain", *options, "--method", "saliency", "--n", 2, "--out", "m"),
        ("report", *options, *LOOK, "--n", 6),
        ("report", "e.json", "--out", "again.html", "--model-card"),
    ):
        result = cli(*command)
        assert result.status == 0, (command[0], result.err)
    assert Evaluation.load("e.json").samples[0].file == "caf\\xe9/secret00.png"
    assert "caf\\xe9" in (photos.parent / "again.html").read_text(encoding="utf-8")


def test_loose_images_in_splits_are_not_trained_on(cli, photos):
    (photos / "cat").rename(photos / "Train")
    (photos / "dog").rename(photos / "Test")
    result = cli("train", "--data", "folder:photos", "--out", "run")
    assert result.status == 2
    assert "sort the images by class" in result.err
    assert not (photos.parent / "run").exists()


TRAIN = ("--arch", "vgg11(width=0.05)", "--adv", "none", "--epochs", 1, "--batch-size", 4, "--augment", "none")
TRAIN += ("--device", "cpu", "--out", "run")


def in_split(photos, split):
    """Move the class folders into a split folder."""
    inside = photos.rename(photos.parent / "moved")
    photos.mkdir()
    inside.rename(photos / split)
    return photos


def test_val_is_what_split_val_judges(cli, photos):
    in_split(photos, "train")
    shutil.copytree(photos / "train", photos / "val")
    evaluation, _ = judge(cli, "--data", "folder:photos", "--split", "val")
    assert (evaluation.data.n, evaluation.samples[0].file) == (20, "val/cat/secret00.png")
    assert cli("train", "--data", "folder:photos", *TRAIN).status == 0
    result = cli("attack", "--model", "run/ckpt.pt", *NOISE, "--split", "val", "--out", "own.json")
    assert result.status == 0, result.err
    own = Evaluation.load("own.json")
    assert own.samples[0].file.startswith("train/")
    assert "val stands for test: validation is held out of train" in own.data.note


def test_train_alone_is_trained_on_and_the_next_command_runs(cli, photos):
    in_split(photos, "train")
    trained = cli("train", "--data", "folder:photos", *TRAIN)
    assert trained.status == 0, trained.err
    assert "no test split" in " ".join((trained.out + trained.err).split())
    (line,) = [line for line in trained.err.splitlines() if line.startswith("next: ")]
    result = cli(*line.removeprefix("next: robustcls ").split(), *NOISE, "--out", "e.json")
    assert result.status == 0, result.err
    assert Evaluation.load("e.json").data.split == "val"


def test_splits_in_class_folders_are_kept_apart_in_training(cli, photos):
    for name in ("cat", "dog"):
        in_split(photos / name, "train")
        (photos / name / "test").mkdir()
        next((photos / name / "train").iterdir()).rename(photos / name / "test" / "one.png")
    assert cli("train", "--data", "folder:photos", *TRAIN).status == 0
    assert cli("attack", "--model", "run/ckpt.pt", *NOISE, "--out", "e.json").status == 0
    assert [one.file for one in Evaluation.load("e.json").samples] == ["cat/test/one.png", "dog/test/one.png"]


def test_one_class_of_those_that_a_checkpoint_knows_is_judged(cli, photos):
    assert cli("train", "--data", "folder:photos", *TRAIN).status == 0
    (photos.parent / "others" / "test").mkdir(parents=True)
    shutil.copytree(photos / "dog", photos.parent / "others" / "test" / "dog")
    for command in ("attack", "report"):
        options = LOOK if command == "report" else ()
        out = ("--out", "r.html") if command == "report" else ("--out", "e.json")
        result = cli(command, "--model", "run/ckpt.pt", *NOISE, "--data", "folder:others", *options, *out)
        assert result.status == 0, result.err
    evaluation = Evaluation.load("e.json")
    assert {sample.label for sample in evaluation.samples} == {1}
    assert "only one class has images: “dog”" in evaluation.data.note


def test_a_class_in_test_only_is_judged_by_a_model_of_others(cli, photos):
    in_split(photos, "test")
    (photos / "train").mkdir()
    shutil.copytree(photos / "test" / "cat", photos / "train" / "cat")
    evaluation, _ = judge(cli, "--data", "folder:photos")
    assert evaluation.data.n == 20
    assert "no train images of 1 of 2 classes: “dog”" in evaluation.data.note


def deepen(photos):
    """Convert the photos to 12-bit grey images."""
    for path in photos.rglob("*.png"):
        grey = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(grey.astype(np.uint16) * 16).save(path)


def test_a_model_is_judged_with_the_decoding_that_it_was_trained_with(cli, photos):
    deepen(photos)
    shutil.copytree(photos, photos.parent / "others")
    trained = cli("train", "--data", "folder:photos(scale=4095)", *TRAIN)
    assert trained.status == 0, trained.err
    found = {}
    for data in ("folder:others(scale=4095)", "folder:others", "folder:others(scale=65535)"):
        result = cli("attack", "--model", "run/ckpt.pt", *NOISE, "--data", data, "--out", "e.json", "--overwrite")
        assert result.status == 0, result.err
        found[data] = Evaluation.load("e.json").data.sha256
        said = "decoded with scale=4095" in " ".join(result.err.split())
        assert said == (data == "folder:others")
        if said:
            assert Evaluation.load("e.json").data.name == "folder:others(scale=4095)"
    right, carried, other = found.values()
    assert carried == right != other
