"""Whether a model was trained on the images of a folder: known answers, and messages where it cannot be known."""

import shutil

import pytest

from robustcls.core.errors import InputError
from robustcls.data import recipe
from robustcls.data.seen import seen_in_training
from robustcls.data.splits import load_split
from tests.helpers.drawn import draw

UNKNOWN = "whether the model was trained on any of these images is not known"


@pytest.fixture
def trained(tmp_path):
    """Return a folder with class folders but no splits: 16 images are for training, and 4 are the test split."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(10):
            draw(tmp_path / "trained" / name / f"{number}.png", seed=100 * label + number)
    return tmp_path / "trained"


def said(root, trained, **options):
    spec = f"folder:{root}"
    return seen_in_training(spec, load_split(spec, "test", whole=True, **options), trained)


def test_a_copy_of_the_training_folder_is_found(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    found = said(copy, f"folder:{trained}")
    assert found.startswith("16 of 20 images are duplicates of images that the model was trained on, such as “cat/")
    assert f"of “{trained}/cat/" in found
    tested = {tuple(file.split("/")) for file in load_split(f"folder:{trained}", "test").files}
    for name, number in ((path.parent.name, path.name) for path in copy.glob("*/*")):
        if (name, number) not in tested:
            (copy / name / number).unlink()
    assert said(copy, f"folder:{trained}") == (
        f"none of them is a duplicate of an image in folder:{trained}, which the model was trained on"
    )


def test_of_a_test_split_that_is_named_so_only_copies_are_said(trained, tmp_path):
    for name in ("cat", "dog"):
        draw(tmp_path / "new" / "test" / name / "a.png", seed=7000 + len(name) * 10 + ord(name[0]))
    assert said(tmp_path / "new", f"folder:{trained}") == ""
    assert said(tmp_path / "new", None) == ""
    for name in ("cat", "dog"):
        for file in (trained / name).iterdir():
            shutil.copy(file, tmp_path / "new" / "test" / name)
    assert said(tmp_path / "new", f"folder:{trained}").startswith("16 of 22 images are duplicates")


@pytest.mark.parametrize("what", [None, "digits", "mylab.data:photos", "folder:gone", "folder:{parent}/empty"])
def test_what_cannot_be_known_is_said(trained, what):
    (trained.parent / "empty").mkdir()
    assert said(trained, what and what.format(parent=trained.parent)) == UNKNOWN


def test_only_folders_are_looked_at():
    assert seen_in_training("digits", load_split("digits", "test", n=10), "digits") == ""


# A folder that is named without the prefix folder:


def test_a_folder_is_recognised_where_a_data_set_is_named(tmp_path, monkeypatch):
    (tmp_path / "my photos (2)" / "cat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for ask in (recipe, lambda spec: load_split(spec, "test")):
        with pytest.raises(InputError, match=r"'my photos \(2\)' is a folder, .*\"folder:my photos \(2\)\""):
            ask("my photos (2)")
        with pytest.raises(InputError, match="did you mean 'digits'"):
            ask("digitz")
    (tmp_path / "digits").mkdir()
    assert recipe("digits")["eps"] == "0.15", "our own data sets take precedence over a folder of the same name"
