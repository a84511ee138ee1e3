"""Splits inside class folders, nested class folders, and classes that only one split has."""

import pytest

from robustcls.core.errors import InputError
from robustcls.data.sets.folder import folder
from robustcls.data.splits import load_split, load_training_data
from tests.helpers.drawn import draw, fill

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Training", "valid"), ("tr", "ts"), ("atrain", "atest")]
)
def test_splits_in_class_folders(tmp_path, train, test):
    root = fill(tmp_path, splits=("cat", "dog"), classes=(train, test), n=4)
    draw(root / "dog" / "loose.png")
    images, tested = folder(str(root), "train"), folder(str(root), "test")
    assert images.classes == tested.classes == ("cat", "dog")
    assert images.labels.tolist() == tested.labels.tolist() == [0] * 4 + [1] * 4
    assert all(f"/{train}/" in name for name in images.files)
    assert all(f"/{test}/" in name for name in tested.files)
    assert "the class folders hold the splits" in images.note
    assert "1 file skipped" in images.note
    fitted, val = load_training_data(f"folder:{root}")
    assert all(f"/{train}/" in name for name in (*fitted.files, *val.files))


def test_a_class_that_lacks_a_split_inside_it(tmp_path):
    root = fill(tmp_path, splits=("cat", "dog"), classes=("train", "test"))
    fill(root, splits=("eel",), classes=("train",))
    images = folder(str(root), "test")
    assert images.classes == ("cat", "dog", "eel")
    assert "no test images of 1 of 3 classes: “eel”" in images.note
    for i in range(3):
        draw(root / "fox" / f"{i}.png")
    with pytest.raises(InputError, match="look like splits, and “fox” holds none"):
        folder(str(root), "train")
    assert folder(str(root), "test", whole=True, nested=True).classes == ("cat", "dog", "eel", "fox")


def test_class_folders_with_a_test_split_alone(tmp_path):
    root = fill(tmp_path, splits=("cat", "dog"), classes=("test",))
    assert len(folder(str(root), "test")) == 6
    with pytest.raises(InputError, match="nothing to train on"):
        folder(str(root), "train")


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (("fold1", "fold2", "fold3"), ("cat", "dog")),
        (("train_test", "val_test"), ("cat", "dog")),
        (("photo", "sketch"), ("cat", "dog", "eel")),
        (("cat", "dog"), ("images", "masks")),
        (("train/photo", "train/sketch", "test/photo", "test/sketch"), ("cat", "dog")),
    ],
)
def test_class_folders_that_all_hold_the_same_folders_are_refused(tmp_path, outer, inner):
    root = fill(tmp_path, splits=outer, classes=inner, n=5)
    for split in ("train", "test"):
        with pytest.raises(InputError, match=r"which are the classes.*nested=True") as error:
            load_split(f"folder:{root}", split, whole=True)
        assert "\n" not in str(error.value)
    images = load_split(f"folder:{root}(nested=True)", "train")
    assert images.classes == tuple(sorted({name.split("/")[-1] for name in outer}))


def test_folders_that_some_classes_share_are_no_reason_to_refuse(tmp_path):
    root = fill(tmp_path, splits=("cat", "dog"), classes=("may", "june"), n=5)
    draw(root / "dog" / "july" / "0.png")
    assert "each class folder holds “june”, “may”, read as one" in folder(str(root), "test").note
    root = fill(tmp_path / "other", splits=("cat",), classes=("may", "june"), n=5)
    fill(root, splits=("dog",), classes=("may",), n=5)
    assert "read as one" not in folder(str(root), "test").note


def test_folders_of_no_images_in_each_class_are_no_reason_to_refuse(tmp_path):
    root = fill(tmp_path, splits=(".",), n=5)
    for name in ("cat", "dog"):
        for inside in ("notes", "labels"):
            (root / name / inside).mkdir()
            (root / name / inside / "a.txt").write_text("")
    assert folder(str(root), "train").classes == ("cat", "dog")


@pytest.mark.parametrize("names", [("fold1", "fold2"), ("train_test", "val_test"), ("split_0", "split_1")])
def test_parts_of_a_data_set_are_no_classes(tmp_path, names):
    root = fill(tmp_path, splits=(".",), classes=names, n=5)
    with pytest.raises(InputError, match="parts of a data set"):
        folder(str(root), "train")


def test_class_folders_in_folders_that_hold_nothing_else(tmp_path):
    fill(tmp_path / "archive" / "photos", splits=(".",), n=5)
    images = load_split(f"folder:{tmp_path}", "test", whole=True)
    assert images.classes == ("cat", "dog")
    assert images.files[0] == "archive/photos/cat/0.png"
    assert "read from “archive/photos”" in images.note


def test_a_ring_of_links_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match="no images"):
        folder(str(tmp_path), "test")


@pytest.mark.parametrize("home", ["test", "."])
def test_one_class_is_enough_to_evaluate(tmp_path, home):
    root = fill(tmp_path, splits=(home,), classes=("cat",), n=5)
    images = load_split(f"folder:{root}", "test", whole=True)
    assert (images.classes, len(images)) == (("cat",), 5)
    assert "only one class has images: “cat”" in images.note
    with pytest.raises(InputError):
        load_training_data(f"folder:{root}")


def test_a_class_in_one_split_only_can_be_evaluated(tmp_path):
    root = fill(tmp_path)
    fill(root, splits=("test",), classes=("eel",))
    images = load_split(f"folder:{root}", "test", whole=True)
    assert images.classes == ("cat", "dog", "eel")
    assert images.labels.bincount().tolist() == [3, 3, 3]
    assert "no train images of 1 of 3 classes: “eel”" in images.note
    train = load_split(f"folder:{root}", "train", whole=True)
    assert train.classes == images.classes  # a class has the same number in all splits
    assert "no train images of 1 of 3 classes: “eel”" in train.note
    with pytest.raises(InputError, match="class 'eel' is in test/ only: train/ and test/ need the same classes"):
        load_training_data(f"folder:{root}")


def test_train_alone_is_enough_to_train(tmp_path):
    root = fill(tmp_path, splits=("train",), n=20)
    train, val = load_training_data(f"folder:{root}")
    assert (len(train), len(val)) == (36, 4)
    assert "no test split" in train.note
    assert load_split(f"folder:{root}", "val").sha256() == val.sha256()
    assert load_split(f"folder:{root}", "train").sha256() == train.sha256()
    with pytest.raises(InputError, match='neither test/ nor val/.*`split="val"`'):
        load_split(f"folder:{root}", "test")


def test_val_without_test_is_the_val_split_of_a_model_that_did_not_train_on_the_folder(tmp_path):
    root = fill(tmp_path, splits=("train", "val"), n=20)
    foreign = load_split(f"folder:{root}", "val", whole=True)
    assert len(foreign) == 40
    assert all(name.startswith("val/") for name in foreign.files)
    assert len(load_split(f"folder:{root}", "train", whole=True)) == 40
    train, held_out = load_training_data(f"folder:{root}")
    ours = load_split(f"folder:{root}", "val")
    assert ours.sha256() == held_out.sha256()
    for images in (ours, held_out, train):
        assert all(name.startswith("train/") for name in images.files)
        assert "val stands for test: validation is held out of train" in images.note
    assert load_split(f"folder:{root}", "test", whole=True).sha256() == foreign.sha256()


def test_val_beside_test_needs_no_train(tmp_path):
    root = fill(tmp_path, splits=("val", "test"), n=2)
    assert load_split(f"folder:{root}", "val").files[0] == "val/cat/0.png"
    assert load_split(f"folder:{root}", "test").files[0] == "test/cat/0.png"
    with pytest.raises(InputError, match="nothing to train on"):
        load_split(f"folder:{root}", "train")
