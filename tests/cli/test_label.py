"""`robustcls label`, and `robustcls train` on images without labels."""

import numpy as np
import pytest
from PIL import Image

from robustcls.data.pseudo_labels import PseudoLabels
from robustcls.data.splits import load_split
from tests.helpers.drawn import draw

TRAIN = ["train", "--data", "digits(size=8)", "--arch", "vgg16(width=0.05)", "--epochs", "1", "--limit-train", "600"]
TRAIN += ["--augment", "none", "--val-n", "40", "--device", "cpu", "--val-attack", "fgsm"]
UNLABELLED = [*TRAIN, "--objective", "trades", "--adv", "pgd(steps=1)", "--unlabelled"]
TEACHER = "{home}/pgd/ckpt.pt"


@pytest.fixture
def loose(home, tmp_path):
    """Return a folder of unlabelled images outside the working directory: grey, large, in colour, and in a class folder."""
    generator = np.random.default_rng(0)
    for name, shape in (("grey", (8, 8)), ("large", (16, 16)), ("colour", (8, 8, 3)), ("classes/7", (8, 8))):
        folder = tmp_path / "loose" / name
        folder.mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(0, 255, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return tmp_path / "loose"


def test_labels_then_training(cli, home, loose):
    labelled = cli("label", "--model", home / "pgd" / "ckpt.pt", "--data", f"folder:{loose / 'grey'}", "--out", "l.npz")
    assert labelled.status == 0, labelled.err
    assert labelled.out.splitlines()[0].startswith("l.npz: 40 labels, mean confidence ")
    assert "40 images of folder:" in " ".join(labelled.err.split())
    assert all(len(line) <= 80 for line in labelled.out.splitlines())
    assert PseudoLabels.load("l.npz").data == f"folder:{loose / 'grey'}"
    trained = cli(*TRAIN, "--unlabelled", f"folder:{loose / 'grey'}", "--pseudo-labels", "l.npz", "--out", "run")
    assert trained.status == 0, trained.err
    said = " ".join(trained.err.split())
    assert "40 images (labelled by pgd/ckpt.pt, mean confidence" in said
    assert "32 of each batch of 64" in said
    assert cli("train", "--resume", "run").status == 0


def test_the_rest_of_a_checkpoint_is_the_default(cli, home):
    one = cli("label", "--model", home / "pgd" / "ckpt.pt", "--out", "one.npz")
    two = cli("label", "--model", home / "pgd" / "ckpt.pt", "--data", "rest", "--out", "two.npz", "--quiet")
    assert (one.status, two.status, two.err) == (0, 0, "")
    found = [PseudoLabels.load(name) for name in ("one.npz", "two.npz")]
    assert found[0].images_sha256 == found[1].images_sha256
    assert len(found[0]) == 1131 - 600


def test_the_header_says_that_labels_are_not_read(cli):
    result = cli(*UNLABELLED, "digits(size=8)", "--out", "run")
    assert result.status == 0, result.err
    said = " ".join(result.err.split())
    assert "the labels of digits(size=8) are not read" in said
    assert "are left out because they are among the labelled images" in said


def test_test_images_are_left_out_of_what_has_no_labels(cli, tmp_path):
    """The folder of unlabelled images also contains test images. Training must leave them out, and the output must say so."""
    test = load_split("digits(size=8)", "test")
    (tmp_path / "loose").mkdir()
    draw(tmp_path / "loose" / "new.png", size=(8, 8), mode="L")
    for number, pixels in enumerate(test.pixels[:30]):
        Image.fromarray(pixels[0].numpy()).save(tmp_path / "loose" / f"{number}.png")
    result = cli(*UNLABELLED, f"folder:{tmp_path / 'loose'}(grey=True)", "--out", "run")
    assert result.status == 0, result.err
    said = " ".join(result.err.split())
    assert "30 of 31 are left out because they are among the labelled images, 30 of them among the test images" in said


def test_an_evaluation_on_images_that_were_trained_on_without_labels(cli, home, tmp_path):
    loose, tested = tmp_path / "loose", tmp_path / "tested"
    for label in range(10):
        draw(tested / "test" / str(label) / "0.png", size=(8, 8), mode="L", seed=label)
        draw(loose / f"{label}.png", size=(8, 8), mode="L", seed=label)
    trained = cli(*UNLABELLED, f"folder:{loose}(grey=True)", "--out", "run")
    assert trained.status == 0, trained.err
    result = cli("attack", "--model", "run/ckpt.pt", "--data", f"folder:{tested}(grey=True)", "--attack", "fgsm")
    assert result.status == 0, result.err
    assert "10 of 10 images are duplicates of images that the model was trained on" in " ".join(result.err.split())


BAD = {
    "another size": ([*UNLABELLED, "folder:{loose}/large"], "16x16, the labelled ones 1x8x8: write folder:"),
    "colour": ([*UNLABELLED, "folder:{loose}/colour"], "are 3x8x8, the labelled ones 1x8x8"),
    "labels by accident": ([*UNLABELLED, "folder:{loose}/classes"], "named like the class '7', which is a label"),
    "no folder": ([*UNLABELLED, "folder:{loose}/none"], "there is no such folder"),
    "unknown data": ([*UNLABELLED, "digitz"], "did you mean 'digits'?"),
    "rest of nothing": ([*UNLABELLED, "rest", "--limit-train", "5000"], "leaves out no image"),
    "an objective that needs labels": ([*TRAIN, "--unlabelled", "rest"], "give --objective trades, or --pseudo-labels"),
    "augmentation that mixes labels": ([*UNLABELLED, "rest", "--augment", "cutmix"], "--augment cutmix mixes labels"),
    "pseudo-labels of no images": ([*TRAIN, "--pseudo-labels", "{labels}"], "name those images with --unlabelled"),
    "pseudo-labels of other images": (
        [*TRAIN, "--unlabelled", "folder:{loose}/grey", "--pseudo-labels", "{labels}"], "not of the 40 of folder:"),
    "pseudo-labels of another seed": (
        [*TRAIN, "--unlabelled", "rest", "--pseudo-labels", "{labels}", "--seed", "1"], "(another --seed, or"),
    "pseudo-labels of other classes": (
        [*TRAIN, "--unlabelled", "rest", "--pseudo-labels", "{wrong}"], "have other classes, 'a' where"),
    "no pseudo-labels": ([*TRAIN, "--unlabelled", "rest", "--pseudo-labels", "no.npz"], "no file no.npz"),
    "pseudo-labels that are none": (
        [*TRAIN, "--unlabelled", "rest", "--pseudo-labels", TEACHER], "holds no labels of `robustcls label`"),
    "a share of 1": ([*UNLABELLED, "rest", "--unlabelled-share", "1"], "--unlabelled-share 1 is out of range"),
    "label: no model": (["label", "--model", "no.pt", "--out", "l.npz"], "no file"),
    "label: no rest": (["label", "--model", "my_plugins:net", "--out", "l.npz"], "name the images with --data"),
    "label: another size": (
        ["label", "--model", TEACHER, "--data", "folder:{loose}/large", "--out", "l.npz"], "are 1x16x16"),
    "label: another size of code": (
        ["label", "--model", "my_plugins:net", "--data", "folder:{loose}/large", "--out", "l.npz"], "the model takes 1x8x8"),
    "label: labels by accident": (
        ["label", "--model", TEACHER, "--data", "folder:{loose}/classes", "--out", "l.npz"], "which is a label"),
    "label: code as a checkpoint's data": (["label", "--model", "{home}/trap.pt", "--out", "l.npz"], "asks to run shutil"),
    "label: --out is a folder": (["label", "--model", TEACHER, "--out", "{loose}"], "is a folder"),
    "label: --out is the model": (["label", "--model", TEACHER, "--out", TEACHER], "an input of this command"),
    "label: --out is no .npz": (["label", "--model", TEACHER, "--out", "l.csv"], "give --out labels.npz"),
    "label: --out lies in the data": (
        ["label", "--model", TEACHER, "--data", "folder:{loose}/grey", "--out", "{loose}/grey/l.npz"], "lies inside the data"),
    "label: wrong --batch-size": (["label", "--model", TEACHER, "--out", "l.npz", "--batch-size", "0"], "1 or more, or auto"),
}  # fmt: skip


@pytest.fixture
def files(cli, home, tmp_path):
    """Return two files with pseudo-labels of the images that the teacher was not trained on; one has wrong class names."""
    assert cli("label", "--model", home / "pgd" / "ckpt.pt", "--out", tmp_path / "l.npz", "--quiet").status == 0
    made = PseudoLabels.load(tmp_path / "l.npz")
    PseudoLabels(made.labels, made.confidence, tuple("abcdefghij"), made.images_sha256).save(tmp_path / "wrong.npz")
    return {"labels": tmp_path / "l.npz", "wrong": tmp_path / "wrong.npz"}


@pytest.mark.parametrize("case", BAD)
def test_one_line_status_2_and_nothing_left_behind(case, cli, home, loose, files, tmp_path):
    arguments, words = BAD[case]
    places = {"home": home, "loose": loose, **files}
    result = cli(*[argument.format(**places) for argument in arguments])
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert words in result.err
    assert not list((tmp_path / "here").rglob("*"))
