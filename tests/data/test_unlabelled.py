"""Images without labels: their sources, and which are refused."""

import pytest
import torch
from PIL import Image

from robustcls.core.errors import InputError
from robustcls.core.losses import UNLABELLED
from robustcls.data.images import Images
from robustcls.data.splits import load_training_data
from robustcls.data.unlabelled import load_unlabelled, without_copies

CLASSES = ("cat", "dog")
LIKE = {"data": "digits(size=8)", "classes": CLASSES, "size": (3, 8, 8)}


def save(path, colour, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


@pytest.fixture
def loose(tmp_path):
    """Return a folder with images at the top level and in folders that are not classes, and a file that is not an image."""
    for number, name in enumerate(("b.png", "a.png", "2024/x.png", "2024/deep/y.png")):
        save(tmp_path / "loose" / name, (number, 10, 20))
    (tmp_path / "loose" / "notes.txt").write_text("no image")
    return tmp_path / "loose"


def test_a_folder_without_classes_is_read_in_the_order_of_names(loose):
    images = load_unlabelled(f"folder:{loose}", **LIKE)
    assert images.files == ("2024/deep/y.png", "2024/x.png", "a.png", "b.png")
    assert images.pixels[:, 0, 0, 0].tolist() == [3, 2, 1, 0]
    assert images.labels.tolist() == [UNLABELLED] * 4
    assert (images.classes, len(images)) == (CLASSES, 4)


def test_it_is_decoded_as_the_labelled_images(loose):
    like = {**LIKE, "data": "folder:anywhere(size=4)", "size": (3, 4, 4)}
    assert load_unlabelled(f"folder:{loose}", **like).pixels.shape == (4, 3, 4, 4)
    like["size"] = (3, 5, 5)
    assert load_unlabelled(f"folder:{loose}(size=5)", **like).pixels.shape == (4, 3, 5, 5)


@pytest.mark.parametrize("name", ["dog/1.png", "train/dog/1.png", "Dog/1.png"])
def test_a_folder_that_is_called_as_a_class_is_refused(name, loose):
    save(loose / name, (1, 1, 1))
    with pytest.raises(InputError, match="named like the class '[Dd]og', which is a label"):
        load_unlabelled(f"folder:{loose}", **LIKE)


def test_images_of_another_size_are_refused_with_the_one_to_give(loose):
    with pytest.raises(InputError, match=r"are 3x8x8, the labelled ones 3x16x16: write folder:.*loose\(size=16\)"):
        load_unlabelled(f"folder:{loose}", **{**LIKE, "size": (3, 16, 16)})
    with pytest.raises(InputError, match="are 3x8x8, the labelled ones 1x8x8"):
        load_unlabelled(f"folder:{loose}", **{**LIKE, "size": (1, 8, 8)})


def test_a_corrupt_image_is_refused_or_skipped(loose):
    (loose / "c.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InputError, match="corrupt image"):
        load_unlabelled(f"folder:{loose}", **LIKE)
    images = load_unlabelled(f"folder:{loose}", **LIKE, skip_corrupt=True)
    assert (len(images), "1 corrupt file" in images.note) == (4, True)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("folder:{home}/none", "there is no such folder"),
        ("folder:{home}/loose/a.png", "is a file"),
        ("folder:{home}/empty", "no images below it"),
        ("folder:{home}/loose(split=test)", "split is about classes and splits"),
        ("folder:{home}/loose(filter=soft)", "unknown filter 'soft'"),
        ("digitz", "did you mean 'digits'"),
        ("rest", "give `limit_train` as well"),
    ],
)
def test_what_cannot_be_read_is_one_line(spec, words, loose):
    (loose.parent / "empty").mkdir()
    with pytest.raises(InputError, match=words) as raised:
        load_unlabelled(spec.format(home=loose.parent), **LIKE)
    assert "\n" not in str(raised.value)


def test_all_corrupt(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="all 1 images are corrupt"):
        load_unlabelled(f"folder:{tmp_path}", **LIKE, skip_corrupt=True)


def test_of_another_data_set_the_labels_are_not_read():
    images = load_unlabelled("digits(size=8)", **{**LIKE, "size": (1, 8, 8)})
    assert set(images.labels.tolist()) == {UNLABELLED}
    assert "the labels of digits(size=8) are not read" in images.note
    assert sum(images.split_counts) == 0


def test_a_limit_that_leaves_nothing_out():
    with pytest.raises(InputError, match="leaves out no image"):
        load_unlabelled("rest", **{**LIKE, "size": (1, 8, 8)}, limit_train=100_000)


def test_copies_of_labelled_images_are_left_out():
    """The whole data set contains the validation images, which must not be used for training."""
    train, val = load_training_data("digits(size=8)", limit_train=100)
    whole = load_unlabelled("digits(size=8)", **{**LIKE, "size": (1, 8, 8)})
    kept = without_copies(whole, train, val)
    known = {image.numpy().tobytes() for images in (train, val) for image in images.pixels}
    assert not known & {image.numpy().tobytes() for image in kept.pixels}
    assert len(kept) == sum(image.numpy().tobytes() not in known for image in whole.pixels) < len(whole) - 200
    assert f"{len(whole) - len(kept)} of {len(whole)} are left out" in kept.note
    rest = load_unlabelled("rest", **{**LIKE, "size": (1, 8, 8)}, limit_train=100)
    assert set(map(bytes, kept.pixels.numpy())) == set(map(bytes, without_copies(rest, train, val).pixels.numpy()))


def test_nothing_but_copies():
    images = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), CLASSES, "tiny")
    with pytest.raises(InputError, match="every unlabelled image of tiny is among the labelled ones"):
        without_copies(images, images, images)
