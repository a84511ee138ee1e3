"""Which images of a folder are decoded, and messages about images that occur twice."""

from types import SimpleNamespace

import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.data.folders import decode
from robustcls.data.images import Images, as_images, without_files
from robustcls.data.sets.folder import folder
from robustcls.data.splits import choose, load_split, load_training_data
from robustcls.runtime import stored
from tests.helpers.drawn import draw, fill

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


@pytest.fixture
def decoded(monkeypatch):
    """Return a list that receives the paths of files whose pixels are read."""
    paths = []
    read = decode._read
    monkeypatch.setattr(decode, "_read", lambda path, *rest: paths.append(path) or read(path, *rest))
    return paths


@pytest.mark.parametrize("split", ["test", "train", "val"])
@pytest.mark.parametrize("splits", [("train", "test"), (".",)])
def test_a_choice_is_decoded_alone_and_is_that_of_the_whole(tmp_path, decoded, split, splits):
    root = fill(tmp_path, splits=splits, n=40)
    whole = load_split(f"folder:{root}", split, seed=3)
    decoded.clear()
    some = load_split(f"folder:{root}", split, seed=3, n=4)
    assert sorted(decoded) == sorted(f"{root}/{name}" for name in some.files)
    want = choose(whole, 4)
    assert some.sha256() == want.sha256()
    assert some.index.tolist() == want.index.tolist()
    assert some.files == want.files
    assert some.available == len(whole)


def test_a_limit_on_training_is_decoded_alone(tmp_path, decoded):
    root = fill(tmp_path, n=40)
    whole, val = load_training_data(f"folder:{root}")
    decoded.clear()
    train, same = load_training_data(f"folder:{root}", limit_train=6)
    assert len(decoded) == 6 + len(val)
    assert same.sha256() == val.sha256()
    assert set(train.files) < set(whole.files)
    assert not set(train.files) & set(val.files)


def test_a_corrupt_image_that_is_not_chosen_is_no_error(tmp_path):
    root = fill(tmp_path, n=10)
    (root / "test" / "cat" / "9.png").write_text("no image")
    assert len(load_split(f"folder:{root}", "test", n=4)) == 4
    with pytest.raises(InputError, match="9.png"):
        load_split(f"folder:{root}", "test")


def test_memory_is_asked_for_the_chosen_alone(tmp_path, monkeypatch):
    root = fill(tmp_path, n=10)
    monkeypatch.setattr(stored, "MAPPED", 1)
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda folder: SimpleNamespace(free=900))
    assert len(load_split(f"folder:{root}", "test", n=2)) == 2
    with pytest.raises(InputError, match="20 images of 6x8.*`n`"):
        load_split(f"folder:{root}", "test")


def test_skipped_images_are_replaced_by_others(tmp_path):
    root = fill(tmp_path, n=10)
    for i in (0, 1):
        (root / "test" / "cat" / f"{i}.png").write_text("no image")
    images = load_split(f"folder:{root}", "test", n=4, skip_corrupt=True)
    assert images.files == ("test/cat/2.png", "test/cat/3.png", "test/dog/0.png", "test/dog/1.png")
    assert images.index.tolist() == [2, 3, 10, 11]
    assert images.skipped == ("test/cat/0.png", "test/cat/1.png")
    for pixels, name in zip(images.pixels, images.files, strict=True):
        (alone,) = folder(str(root), "test", skip_corrupt=True, pick=lambda labels: labels[:1] * 0).pixels[:1]
        assert name != images.files[0] or torch.equal(pixels, alone)


def test_validation_is_the_same_with_and_without_a_choice_where_images_are_skipped(tmp_path):
    root = fill(tmp_path, n=20)
    for i in range(5):
        (root / "train" / "cat" / f"{i}.png").write_text("no image")
    train, val = load_training_data(f"folder:{root}", skip_corrupt=True)
    assert len(train) + len(val) == 35
    assert load_split(f"folder:{root}", "val", skip_corrupt=True).files == val.files
    few = load_split(f"folder:{root}", "val", skip_corrupt=True, n=2)
    assert set(few.files) < set(val.files)
    assert not set(train.files) & set(val.files)


def test_files_follow_their_images():
    pixels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    images = Images(pixels, torch.tensor([0, 1, 0]), ("a", "b"), "mine", files=("x", "y", "z"), note="such as “x”")
    assert images.take(torch.tensor([2, 0])).files == ("z", "x")
    assert images.take(torch.tensor([2, 0])).available == 3
    assert images.to("cpu").files == ("x", "y", "z")
    assert as_images(images, "mine") is images
    hidden = without_files(images)
    assert hidden.files is None
    assert "x" not in hidden.note.replace("such as", "")
    with pytest.raises(InputError, match="2 file names for 3 images"):
        as_images(Images(pixels, images.labels, ("a", "b"), "mine", files=("x", "y")), "mine")


def test_a_large_image_is_drawn_only_when_it_is_chosen(tmp_path, decoded):
    root = fill(tmp_path, n=4)
    draw(root / "test" / "dog" / "zz.png", size=(300, 200))
    images = load_split(f"folder:{root}", "test", n=2)
    assert images.pixels.shape[2:] == (224, 224)  # the size follows from all files
    assert len(decoded) == 2
