"""Which folders are splits, and which are classes."""

import unicodedata

import pytest

from robustcls.core.errors import InputError
from robustcls.data.sets.folder import folder
from robustcls.data.spec import may_have_trained_on
from robustcls.data.splits import load_split, load_training_data
from tests.helpers.drawn import draw, fill

# The decoder of folders also works without torchvision's decoder, which is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("training_set", "test_set"),
        ("training", "testing"),
        ("Training Data", "Testing Data"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_images", "test_images"),
        ("train-224", "test-224"),
        ("trainset", "testset"),
        ("TrainImages", "TestImages"),
        ("trn", "tst"),
        ("train", "valid"),
        ("train", "Validation"),
        ("train", "val_set"),
        ("train", "dev"),
        ("train", "eval"),
        ("train", "holdout"),
        ("train", "hold-out"),
        ("chest_xray/train", "chest_xray/test"),
        ("training", "holdout_images"),
        ("train", "test@2x"),
        ("cifartrain", "cifartest"),
        ("xtrain", "xtest"),
        ("trainA", "testA"),
        ("tr", "ts"),
        ("TR", "VA"),
        ("tr", "test"),
        ("Trainingsdaten", "Testdaten"),
        ("Trainingsbilder", "Validierungsbilder"),
        ("entrenamiento", "validación"),
        ("entrainement", "test"),
        ("treino", "teste"),
        ("训练集", "测试集"),
        ("train_val", "test"),
        ("archive/archive/Train", "archive/archive/Test"),
        ("train/images", "test/images"),
        ("data/train/imgs", "data/valid/imgs"),
    ],
)
def test_usual_spellings_of_splits(tmp_path, train, test):
    root = fill(tmp_path, splits=(train, test))
    draw(root / test / "dog" / "more.png", seed=7)
    images = folder(str(root), "test")
    assert images.classes == ("cat", "dog")
    assert len(images) == 7
    assert images.files[0] == f"{test}/cat/0.png"
    assert len(folder(str(root), "train")) == 6
    last = next(part for part in test.split("/") if part not in ("chest_xray", "archive", "data"))
    assert last in ("test", "val") or f"“{last}”" in images.note  # unusual names are reported


@pytest.mark.parametrize(
    "names",
    [
        ("train", "test"), ("Train", "Validation"), ("training_set", "test_set"), ("test",), ("xtest", "xtrain"),
        ("ts", "tr"), ("Testdaten", "Trainingsdaten"), ("validacion", "entrenamiento"),
    ],
)  # fmt: skip
def test_loose_images_in_splits_are_no_classes(tmp_path, names):
    root = fill(tmp_path, splits=(".",), classes=names, n=10)
    for split in ("train", "test"):
        with pytest.raises(InputError, match=r"\w/.* sort the images by class") as error:
            folder(str(root), split)
        assert "\n" not in str(error.value)


def test_loose_images_in_one_split_are_said(tmp_path):
    root = fill(tmp_path, splits=("train",))
    draw(root / "val" / "0.png")
    with pytest.raises(InputError, match="neither test/ nor val/ with class folders .“val” has no class folders"):
        folder(str(root), "test")


def test_two_folders_for_one_split_are_refused(tmp_path):
    root = fill(tmp_path, splits=("train", "Test", "test_set"))
    with pytest.raises(InputError, match="Test/ and test_set/ both look like the test split"):
        folder(str(root), "test")


@pytest.mark.parametrize(
    "classes",
    [
        ("bus", "car", "train"), ("bus", "train"), ("contest", "protest"), ("bus station", "train station"),
        ("latest", "oldest"), ("test_strip", "test_tube"), ("attestation", "strain"), ("oval", "restrain"), ("naval", "train"),
        ("ta", "te", "tr"), ("data", "images"),
    ],
)  # fmt: skip
def test_classes_that_sound_like_splits(tmp_path, classes):
    root = fill(tmp_path, splits=("train", "test"), classes=classes)
    assert folder(str(root), "test").classes == classes
    alone = fill(tmp_path / "alone", splits=(".",), classes=classes, n=5)
    images = folder(str(alone), "train")
    assert images.classes == classes
    assert ("“train” taken as a class" in images.note) == ("train" in classes)


def test_a_class_without_any_image_does_not_make_two(tmp_path):
    root = fill(tmp_path, classes=("images",))
    for split in ("train", "test"):
        (root / split / "labels").mkdir()
        (root / split / "labels" / "0.txt").write_text("")
        with pytest.raises(InputError, match="only one class, 'images'"):
            folder(str(root), split)


def test_other_folders_beside_splits_are_said(tmp_path):
    root = fill(tmp_path, splits=("train", "test", "seg_pred"))
    assert "folders not used: “seg_pred”" in folder(str(root), "test").note


def test_val_beside_test_is_what_training_validates_on(tmp_path):
    root = fill(tmp_path, splits=("train", "val", "test"), n=10)
    train, val = load_training_data(f"folder:{root}")
    assert (len(train), len(val)) == (20, 20)
    assert val.files[0] == "val/cat/0.png"
    assert load_split(f"folder:{root}", "val").sha256() == val.sha256()
    assert load_split(f"folder:{root}", "train").sha256() == train.sha256()
    assert load_split(f"folder:{root}", "val", n=4).files[-1] == "val/dog/1.png"
    assert len(load_training_data(f"folder:{root}", limit_train=6)[0]) == 6
    assert len(load_split(f"folder:{root}", "test")) == 20


@pytest.mark.parametrize("name", ["test", "val", "Testing"])
def test_a_test_split_alone_is_enough_to_evaluate(tmp_path, name):
    root = fill(tmp_path, splits=(name,), n=4)
    images = load_split(f"folder:{root}", "test")
    assert len(images) == 8
    with pytest.raises(InputError, match="no train/ with class folders.*enough to evaluate"):
        load_split(f"folder:{root}", "train")
    if name == "val":  # its own name selects it, although it also serves as the test split
        assert load_split(f"folder:{root}", "val").sha256() == images.sha256()
        return
    with pytest.raises(InputError, match="no train/ with class folders.*enough to evaluate"):
        load_split(f"folder:{root}", "val")


def test_class_folders_alone_can_be_evaluated_as_a_whole(tmp_path):
    root = fill(tmp_path, splits=(".",), n=10)
    part = load_split(f"folder:{root}", "test")
    assert len(part) == 4
    assert "4 of 20 images (20% that training leaves out" in part.note
    whole = load_split(f"folder:{root}", "test", whole=True)
    assert len(whole) == 20
    assert "all 20 images are the test split" in whole.note
    assert load_split(f"folder:{root}(whole=True)", "test").sha256() == whole.sha256()
    assert load_split(f"folder:{root}(whole=False)", "test", whole=True).sha256() == part.sha256()
    one_each = fill(tmp_path / "few", splits=(".",), n=1)
    assert len(load_split(f"folder:{one_each}", "test", whole=True)) == 2


def test_whole_changes_nothing_where_there_are_splits(tmp_path):
    root = fill(tmp_path)
    assert load_split(f"folder:{root}", "test", whole=True).sha256() == load_split(f"folder:{root}", "test").sha256()


@pytest.mark.parametrize(
    ("trained", "data", "seen"),
    [
        ("folder:{0}/a", "folder:{0}/a", True),
        ("folder:{0}/a", "folder:{0}/./a(size=64)", True),
        ("folder:{0}/a", "folder:{0}/link", True),
        ("folder:{0}/moved", "folder:{0}/a", True),
        ("folder:{0}/b", "folder:{0}/a", False),
        ("digits", "folder:{0}/a", False),
        ("mine:images(size=3)", "mine:images", True),
    ],
)
def test_who_may_have_trained_on_a_folder(tmp_path, trained, data, seen):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert may_have_trained_on(trained.format(tmp_path), data.format(tmp_path)) is seen


@pytest.mark.parametrize("kind", ["empty", "absent", "other files"])
def test_a_class_without_test_images_is_a_note(tmp_path, kind):
    root = fill(tmp_path, splits=("train",), classes=("cat", "dog", "eel"))
    fill(root, splits=("test",), classes=("cat", "eel"))
    if kind != "absent":
        (root / "test" / "dog").mkdir()
    if kind == "other files":
        (root / "test" / "dog" / "notes.txt").write_text("")
    images = folder(str(root), "test")
    assert images.classes == ("cat", "dog", "eel")
    assert images.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert "no test images of 1 of 3 classes: “dog”" in images.note


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = fill(tmp_path, splits=("train",), classes=(composed, "zoo"))
    fill(root, splits=("test",), classes=(decomposed, "zoo"), n=2)
    images = folder(str(root), "test")
    assert images.classes == (composed, "zoo")
    assert images.labels.tolist() == [0, 0, 1, 1]


def test_names_that_are_no_utf8(tmp_path):
    root = fill(tmp_path, classes=("x", "zoo"))
    for split in ("train", "test"):
        (root / split / "x").rename(root / split / "caf\udce9")
    images = folder(str(root), "test")
    assert images.classes == ("caf\\xe9", "zoo")
    assert images.files[0] == "test/caf\\xe9/0.png"
    "".join([*images.files, *images.classes, images.note]).encode("utf-8")
