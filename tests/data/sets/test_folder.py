import os

import numpy as np
import pytest
import torch
from PIL import Image

from robustcls.core.errors import InputError
from robustcls.data.sets.folder import folder
from robustcls.data.splits import load_split
from tests.helpers.drawn import draw, fill

# Folders can also be read without torchvision's decoder, which is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


def test_reads_in_sorted_order(tmp_path):
    root = fill(tmp_path)
    expected = draw(root / "test" / "cat" / "0.png", seed=77)
    draw(root / "test" / "dog" / "more" / "9.JPG", seed=5, format="JPEG")
    draw(root / "test" / "dog" / ".hidden.png")
    draw(root / "test" / ".cache" / "0.png")
    (root / "test" / "cat" / "notes.txt").write_text("not an image")
    images = folder(str(root), "test")
    assert images.pixels.shape == (7, 3, 6, 8)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert images.classes == ("cat", "dog")
    assert images.files[0] == "test/cat/0.png"
    assert images.files[-1] == "test/dog/more/9.JPG"
    assert (
        images.note == "1 file skipped because it is not an image file in a class folder, such as “test/cat/notes.txt”"
    )
    assert images.flip
    assert torch.equal(images.pixels[0], torch.from_numpy(expected).permute(2, 0, 1))
    assert folder(str(root), "test").sha256() == images.sha256()


def test_formats_decode_as_pil_does(tmp_path):
    root = fill(tmp_path)
    for i, ending in enumerate(("bmp", "webp", "ppm", "tif", "gif", "jpeg")):
        draw(root / "test" / "dog" / f"x.{ending}", seed=i)
    images = folder(str(root), "test")
    names = sorted(os.listdir(root / "test" / "dog"))
    for pixels, name in zip(images.pixels[3:], names, strict=True):
        with Image.open(root / "test" / "dog" / name) as image:
            assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB"))), name


def test_val_stands_for_test(tmp_path):
    root = fill(tmp_path, splits=("train", "val"))
    assert len(load_split(f"folder:{root}", "test")) == 6


def test_classes_only_are_split(tmp_path):
    root = fill(tmp_path, splits=(".",), n=10)
    train, test = folder(str(root), "train"), folder(str(root), "test")
    assert train.labels.bincount().tolist() == [8, 8]
    assert test.labels.bincount().tolist() == [2, 2]
    seen = {tuple(image.flatten().tolist()) for image in torch.cat([train.pixels, test.pixels])}
    assert len(seen) == 20


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, splits=(".",), classes=("bus", "train"), n=5)
    assert folder(str(tmp_path), "train").classes == ("bus", "train")


def test_grey(tmp_path):
    root = fill(tmp_path, mode="L")
    assert folder(str(root), "test").pixels.shape == (6, 1, 6, 8)
    draw(root / "train" / "cat" / "colour.jpg")
    assert folder(str(root), "test").pixels.shape == (6, 3, 6, 8)  # a single colour image in train is enough
    assert folder(str(root), "train", grey=True).pixels.shape == (7, 1, 6, 8)
    assert load_split(f"folder:{root}(grey=True, size=4)", "test").pixels.shape == (6, 1, 4, 4)


def test_grey_jpeg_is_read_as_grey(tmp_path):
    root = fill(tmp_path, mode="L")
    expected = draw(root / "test" / "cat" / "0.jpg", mode="L", quality=100)
    pixels = folder(str(root), "test").pixels
    assert pixels.shape[1] == 1
    assert np.abs(pixels[0, 0].numpy().astype(int) - expected.astype(int)).max() < 9


@pytest.mark.parametrize("where", ["train", "test"])
def test_mixed_sizes_become_224(tmp_path, where):
    root = fill(tmp_path)
    draw(root / where / "cat" / "large.jpg", size=(300, 400))
    images = folder(str(root), "test")
    assert images.pixels.shape[1:] == (3, 224, 224)
    assert "2 sizes" in images.note
    assert "224" in images.note


def test_size_crops_the_centre(tmp_path):
    root = fill(tmp_path)
    bars = np.zeros((10, 30, 3), np.uint8)
    bars[:, 10:20] = 200
    Image.fromarray(bars).save(root / "test" / "cat" / "0.png")
    images = folder(str(root), "test", size=10)
    assert images.pixels.shape[1:] == (3, 10, 10)
    assert (images.pixels[0] == 200).all()
    assert images.note == ""


def damage(path, kind):
    draw(path, size=(64, 64))
    content = path.read_bytes()
    path.unlink()
    if kind == "link":
        path.symlink_to("/nowhere/at/all.png")
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello, I am no image"}[kind])
    return path


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "link"])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_corrupt_image_is_named_or_skipped(tmp_path, kind, ending):
    root = fill(tmp_path, size=(64, 64))
    bad = damage(root / "test" / "cat" / f"1b.{ending}", kind)
    with pytest.raises(InputError, match="corrupt image") as error:
        load_split(f"folder:{root}", "test")
    assert str(bad) in str(error.value)
    assert "`skip_corrupt=True`" in str(error.value)
    assert "\n" not in str(error.value)
    images = load_split(f"folder:{root}", "test", skip_corrupt=True)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.note == f"1 corrupt file skipped: “test/cat/1b.{ending}”"
    assert images.skipped == (f"test/cat/1b.{ending}",)
    assert images.files == (
        "test/cat/0.png",
        "test/cat/1.png",
        "test/cat/2.png",
        *(f"test/dog/{i}.png" for i in range(3)),
    )
    assert images.pixels.shape[2:] == (64, 64)


def test_all_corrupt_images_are_listed_at_once(tmp_path):
    root = fill(tmp_path, n=20)
    for i in range(13):
        damage(root / "test" / "cat" / f"{i}.png", "text")
    with pytest.raises(InputError, match="13 corrupt images: ") as error:
        folder(str(root), "test")
    assert str(error.value).count(".png") == 10
    assert "and 3 more" in str(error.value)
    images = folder(str(root), "test", skip_corrupt=True)
    assert len(images) == 27
    assert len(images.skipped) == 13
    assert "13 corrupt files skipped: “test/cat/0.png”, “test/cat/1.png”, “test/cat/10.png” and 10 more" in images.note


def test_a_class_of_corrupt_images_only(tmp_path):
    root = fill(tmp_path)
    for i in range(3):
        damage(root / "test" / "dog" / f"{i}.png", "empty")
    with pytest.raises(InputError, match="every test image of class 'dog' is corrupt"):
        folder(str(root), "test", skip_corrupt=True)


def missing(root):
    pass


def a_file(root):
    root.write_text("")


def empty(root):
    root.mkdir()


def loose_images(root):
    draw(root / "0.png")


def one_class(root):
    fill(root, classes=("cat",))


def empty_class(root):
    fill(root)
    (root / "train" / "eel").mkdir()


def other_classes(root):
    fill(root)
    draw(root / "test" / "eel" / "0.png")


def too_few(root):
    fill(root, splits=(".",), n=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "there is no such folder"),
        (a_file, "is a file"),
        (empty, "no images in class folders"),
        (loose_images, "no images in class folders"),
        (one_class, "only one class, 'cat'"),
        (empty_class, "eel: no images"),
        (other_classes, "class 'eel' is in test/ only"),
        (too_few, "too few images to split"),
    ],
)
def test_bad_folders(tmp_path, make, message):
    root = tmp_path / "images"
    make(root)
    with pytest.raises(InputError, match=message) as error:
        load_split(f"folder:{root}", "train")
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_size(tmp_path):
    with pytest.raises(InputError, match="size=0"):
        folder(str(tmp_path), "test", size=0)


def test_reads_the_same_without_torchvisions_decoder(tmp_path, monkeypatch):
    root = fill(tmp_path)
    draw(root / "test" / "cat" / "0.jpg", quality=80)
    quick = folder(str(root), "test")
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    assert folder(str(root), "test").sha256() == quick.sha256()
