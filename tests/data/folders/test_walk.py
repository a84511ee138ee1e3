"""Which files of a folder are images."""

import numpy as np
import pytest

from robustcls.data.sets.folder import folder
from robustcls.images.formats import endings
from tests.helpers.drawn import draw, fill

LOSSLESS = ("png", "PNG", "bmp", "dib", "ppm", "pnm", "tif", "tiff", "TIFF", "tga", "sgi", "pcx", "webp", "apng")
KINDS = {"pnm": "PPM", "dib": "BMP", "apng": "PNG"}


@pytest.mark.parametrize("ending", LOSSLESS)
def test_every_ending_that_pillow_reads_is_an_image(tmp_path, ending):
    root = fill(tmp_path)
    options = {"lossless": True} if ending == "webp" else {}
    pixels = draw(root / "test" / "dog" / f"x.{ending}", seed=5, format=KINDS.get(ending), **options)
    images = folder(str(root), "test")
    assert images.files[-1] == f"test/dog/x.{ending}"
    assert np.array_equal(images.pixels[-1].permute(1, 2, 0).numpy(), pixels)
    assert images.note == ""


@pytest.mark.parametrize("ending", ["jpe", "jfif", "JPG", "JPEG", "jp2", "pgm", "avif", "mpo"])
def test_endings_of_grey_and_lossy_images(tmp_path, ending):
    root = fill(tmp_path)
    kind = {"jpe": "JPEG", "jfif": "JPEG", "JPG": "JPEG", "mpo": "JPEG", "pgm": "PPM"}.get(ending)
    if ending == "avif" and ".avif" not in endings():
        pytest.skip("Pillow was built without AVIF")
    draw(root / "test" / "dog" / f"x.{ending}", mode="L" if ending == "pgm" else "RGB", format=kind)
    assert folder(str(root), "test").files[-1] == f"test/dog/x.{ending}"


@pytest.mark.parametrize("name", ["film.mpg", "paper.pdf", "page.ps", "table.csv", "notes", "stub.h5"])
def test_what_is_no_image_is_counted(tmp_path, name):
    root = fill(tmp_path)
    (root / "test" / "cat" / name).write_text("")
    images = folder(str(root), "test")
    assert len(images) == 6
    assert f"1 file skipped because it is not an image file in a class folder, such as “test/cat/{name}”" in images.note
    assert folder(str(root), "train").note == ""


def test_images_beside_class_folders_are_counted(tmp_path):
    root = fill(tmp_path)
    for i in range(3):
        draw(root / "test" / f"{i}.png")
    assert "3 files skipped because they are not image files in class folders" in folder(str(root), "test").note


def test_what_tools_leave_behind_is_neither_class_nor_image(tmp_path):
    root = fill(tmp_path)
    for name in (
        "@eaDir",
        "__MACOSX",
        ".ipynb_checkpoints",
        ".thumbnails",
        "lost+found",
        "#recycle",
        "$RECYCLE.BIN",
        "@Recently-Snapshot",
        "@Transcode",
    ):
        draw(root / "train" / name / "0.png")
        draw(root / "test" / "cat" / name / "0.png")
        draw(root / name / "0.png")
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "desktop.ini"):
        (root / "test" / "cat" / name).write_text("")
    for split in ("train", "test"):
        images = folder(str(root), split)
        assert images.classes == ("cat", "dog")
        assert len(images) == 6
        assert images.note == ""


def test_linked_folders_are_followed_once(tmp_path):
    root, store = fill(tmp_path / "d"), fill(tmp_path / "store", splits=("more", "own"))
    (root / "test" / "cat" / "batch").symlink_to(store / "more" / "cat")
    (root / "test" / "cat" / "again").symlink_to(store / "more" / "cat")
    (root / "test" / "cat" / "loop").symlink_to("../cat")
    (root / "test" / "cat" / "up").symlink_to("../..")
    (root / "test" / "eel").symlink_to(store / "own" / "dog")
    (root / "train" / "eel").symlink_to(store / "own" / "cat")
    images = folder(str(root), "test")
    assert images.classes == ("cat", "dog", "eel")
    assert images.labels.bincount().tolist() == [6, 3, 3]
    assert [name for name in images.files if "again" in name] == [f"test/cat/again/{i}.png" for i in range(3)]
    assert "3 linked folders lead to images that are read already, such as “test/cat/batch”" in images.note


def test_a_linked_split_and_a_class_of_links_alone(tmp_path):
    store = fill(tmp_path / "store", n=4)
    root = tmp_path / "d"
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / name / "batch").symlink_to(store / "train" / name)
    (root / "test").symlink_to(store / "test")
    assert len(folder(str(root), "train")) == len(folder(str(root), "test")) == 8
    assert folder(str(root), "train").sha256() == folder(str(store), "train").sha256()
