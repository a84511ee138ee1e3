"""A folder as used for ImageNet: options for resizing, a list of files, and the whole folder as the split."""

import hashlib
from itertools import product

import pytest
import torch

from robustcls.cli.main import main
from robustcls.core.errors import InputError
from robustcls.data.folders import form
from robustcls.data.splits import load_split
from tests.helpers.drawn import draw

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
CLASSES = ("n01440764", "n01443537", "n02007558")


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(reversed(CLASSES)):
        for i in range(4):
            draw(
                tmp_path / "imagenet" / name / f"val_{number}{i}.JPEG",
                (40 + i, 30),
                seed=10 * number + i,
                format="JPEG",
            )
    return tmp_path / "imagenet"


def write(root, *lines):
    path = root.parent / "ids.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_list_names_files_in_any_of_the_usual_ways(root):
    names = [f"{CLASSES[0]}/val_22.JPEG", "val_00", f"./{CLASSES[1]}/val_11", f"val/{CLASSES[0]}/val_20.JPEG"]
    ids = write(root, "# of the set", "", *names)
    found = load_split(f"folder:{root}(list={ids}, split=all)", "test")
    whole = load_split(f"folder:{root}(split=all)", "test")
    assert found.files == tuple(f"{CLASSES[c]}/val_{i}.JPEG" for c, i in ((0, "20"), (0, "22"), (1, "11"), (2, "00")))
    assert found.labels.tolist() == [0, 0, 1, 2]
    assert found.index.tolist() == [0, 2, 5, 8], "positions among all files, on which random numbers depend"
    assert torch.equal(found.pixels, whole.pixels[found.index])
    assert found.available == 4
    assert "names 4 of 12 images in 3 of 3 classes" in found.note
    assert len(load_split(f"folder:{root}(list={ids}, split=all)", "test", n=3)) == 3
    ids.write_text(names[0], encoding="utf-8-sig")
    assert len(load_split(f"folder:{root}(list={ids}, split=all)", "test")) == 1, "with a byte-order mark"


def test_a_class_without_a_listed_image_keeps_its_place(root):
    found = load_split(f"folder:{root}(list={write(root, 'val_00')}, split=all)", "test")
    assert found.classes == CLASSES
    assert found.labels.tolist() == [2]


def test_the_hash_of_the_ids_is_that_of_the_sorted_list(root):
    lines = [f"{CLASSES[2]}/val_01.JPEG", f"{CLASSES[0]}/val_22.JPEG"]
    found = load_split(f"folder:{root}(list={write(root, *lines)}, split=all)", "test")
    assert found.ids_sha256() == hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()
    assert load_split("digits", "test", n=3).ids_sha256() == ""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((f"{CLASSES[0]}/val_22.JPEG", "val_99.JPEG"), "1 of 2 lines name no image of .*“val_99.JPEG”"),
        ((f"{CLASSES[1]}/val_22.JPEG",), "1 of 1 lines name no image"),
        (("# nothing",), "names no image"),
        ((), "names no image"),
        (("x/val_22.JPEG/y",), "1 of 1 lines"),
    ],
    ids=["missing", "other class", "comments", "empty", "below a file"],
)
def test_bad_lists(root, lines, message):
    with pytest.raises(InputError, match=message):
        load_split(f"folder:{root}(list={write(root, *lines)}, split=all)", "test")


def test_a_name_of_several_images_is_refused(root):
    draw(root / CLASSES[0] / "val_00.JPEG", (40, 30), seed=77, format="JPEG")
    with pytest.raises(InputError, match="fits more than one image"):
        load_split(f"folder:{root}(list={write(root, 'val_00.JPEG')}, split=all)", "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("list=/nowhere/ids.txt", "list /nowhere/ids.txt: No such file"),
        ("filter=cubic", "unknown filter 'cubic': did you mean 'bicubic'"),
        ("resize=16, size=24", "resize=16 is below size=24"),
        ("resize=16", "resize=16 needs the size"),
        ("split=dev", "split='dev' is not 'all'"),
    ],
)
def test_bad_options(root, options, message):
    with pytest.raises(InputError, match=message):
        load_split(f"folder:{root}({options})", "test", whole=True)


@pytest.mark.parametrize(
    "option", ["list=missing.txt", "filter=cubic", "resize=16, size=24", "resize=0, size=24", "size=0"]
)
def test_the_command_says_so_in_one_line(root, option, capsys):
    with pytest.raises(SystemExit) as end:
        main(["attack", "--model", "tests.helpers.large_images:net", "--data", f"folder:{root}({option}, split=all)"])
    assert end.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("robustcls:")]
    assert len(said) == 1
    assert option.partition(",")[0].partition("=")[2] in said[0]


def test_the_split_named_is_read_and_never_trained_on(tmp_path):
    for seed, (split, name) in enumerate(product(("train", "val", "test"), CLASSES)):
        draw(tmp_path / split / name / f"{split}.png", seed=seed)
    for split in ("train", "val", "test"):
        found = load_split(f"folder:{tmp_path}(split={split})", "test")
        assert found.files == tuple(f"{split}/{name}/{split}.png" for name in CLASSES)
    assert len(load_split(f"folder:{tmp_path}(split=all)", "test")) == 9
    with pytest.raises(InputError, match="split=all names the images to test on"):
        load_split(f"folder:{tmp_path}(split=all)", "train")


def test_no_header_is_read_for_nothing(root, monkeypatch):
    """If the size is given, only the header of one image is read, for its colour."""
    read, paths = form._header, []
    monkeypatch.setattr(form, "_header", lambda path: paths.append(path) or read(path))
    load_split(f"folder:{root}(size=24, resize=26, split=all)", "test", n=2)
    assert len(paths) == 1
