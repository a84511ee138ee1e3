"""The file of pseudo-labels: what it stores, and what is refused."""

from dataclasses import replace

import numpy
import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.data.images import Images, hash_pixels
from robustcls.data.pseudo_labels import SCHEMA, PseudoLabels

PIXELS = torch.arange(4 * 3, dtype=torch.uint8).view(4, 3, 1, 1)
IMAGES = Images(PIXELS, torch.full((4,), -100), ("cat", "dog"), "tiny")
MADE = PseudoLabels(
    torch.tensor([0, 1, 1, 0]),
    torch.tensor([0.5, 0.75, 1.0, 0.75]),
    ("cat", "dog"),
    hash_pixels(PIXELS),
    "ab",
    "t.pt",
    "d",
    "1",
)


@pytest.fixture
def file(tmp_path):
    MADE.save(tmp_path / "labels.npz")
    return tmp_path / "labels.npz"


def test_what_is_saved_is_read(file):
    read = PseudoLabels.load(file)
    for name, value in vars(MADE).items():
        assert (
            torch.equal(getattr(read, name), value) if isinstance(value, torch.Tensor) else getattr(read, name) == value
        )
    given = read.give(IMAGES)
    assert given.labels.tolist() == [0, 1, 1, 0]
    assert "labelled by t.pt, mean confidence 75%" in given.note


def test_the_file_holds_no_pickle(file):
    with numpy.load(file, allow_pickle=False) as archive:
        assert {name: archive[name].dtype.kind for name in archive.files} == {
            **dict.fromkeys(("schema", "images_sha256", "model_sha256", "model", "data", "version", "classes"), "U"),
            "labels": "i",
            "confidence": "f",
        }
        assert str(archive["schema"]) == SCHEMA


def test_the_hash_is_of_pixels_alone():
    assert hash_pixels(PIXELS) == hash_pixels(PIXELS.clone())
    other = PIXELS.clone()
    other[3, 2] += 1
    assert len({hash_pixels(one) for one in (PIXELS, other, PIXELS.flip(0), PIXELS.view(2, 6, 1, 1))}) == 4


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES.take(torch.tensor([1, 0, 2, 3])), "are of 4 images of d, not of the 4 of tiny"),
        (IMAGES.take(torch.arange(3)), "are of 4 images of d, not of the 3 of tiny"),
        (replace(IMAGES, classes=("cat", "fox")), "have other classes, 'dog' where the training images have 'fox'"),
        (replace(IMAGES, classes=("dog", "cat")), "have other classes, 'cat' where the training images have 'dog'"),
        (replace(IMAGES, classes=("cat", "dog", "fox")), "have other classes, 'none' where .* have 'fox'"),
    ],
    ids=["another order", "fewer", "other classes", "another order of classes", "more classes"],
)
def test_labels_of_other_images_or_classes_are_refused(images, words):
    with pytest.raises(InputError, match=words):
        MADE.give(images)


def test_outputs_without_names_are_taken_in_order():
    given = replace(MADE, classes=("0", "1")).give(IMAGES)
    assert given.labels.tolist() == [0, 1, 1, 0]
    assert "outputs without class names" in given.note


def damaged(change):
    arrays = {
        "labels": MADE.labels.numpy(),
        "confidence": MADE.confidence.numpy(),
        "classes": numpy.array(MADE.classes),
    }
    texts = {"schema": SCHEMA, "images_sha256": "a", "model_sha256": "", "model": "", "data": "", "version": ""}
    return {**arrays, **{name: numpy.array(text) for name, text in texts.items()}, **change}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": numpy.array("other/1")}, "lacks the schema"),
        ({"labels": numpy.array([0, 1, 2, 0])}, "run from 0 to 2 with 2 classes"),
        ({"labels": numpy.array([0, 1, -100, 0])}, "run from -100 to 1"),
        ({"labels": numpy.array([0.0, 1, 1, 0])}, "have other types"),
        ({"labels": numpy.array([0, 1])}, "have other shapes"),
        (
            {"labels": numpy.array([], dtype=numpy.int64), "confidence": numpy.array([], dtype=numpy.float32)},
            "other shapes",
        ),
        ({"classes": numpy.array(["cat", {"a": 1}], dtype=object)}, "ValueError"),
    ],
)
def test_a_damaged_file_is_refused(change, words, tmp_path):
    numpy.savez(tmp_path / "labels.npz", allow_pickle=True, **damaged(change))
    with pytest.raises(InputError, match=words):
        PseudoLabels.load(tmp_path / "labels.npz")


def test_a_file_that_lacks_something(tmp_path):
    arrays = damaged({})
    del arrays["confidence"]
    numpy.savez(tmp_path / "labels.npz", **arrays)
    with pytest.raises(InputError, match="it lacks confidence"):
        PseudoLabels.load(tmp_path / "labels.npz")


@pytest.mark.parametrize("content", [b"", b"label\n1\n", b"PK\x03\x04 cut", b"\x93NUMPY"])
def test_what_is_no_archive(content, tmp_path):
    (tmp_path / "labels.npz").write_bytes(content)
    with pytest.raises(InputError, match="holds no labels of `robustcls label`"):
        PseudoLabels.load(tmp_path / "labels.npz")


def test_a_single_array(tmp_path):
    with open(tmp_path / "labels.npz", "wb") as file:
        numpy.save(file, numpy.arange(3))
    with pytest.raises(InputError, match="holds no labels of"):
        PseudoLabels.load(tmp_path / "labels.npz")
    with pytest.raises(InputError, match="no file"):
        PseudoLabels.load(tmp_path / "none.npz")
