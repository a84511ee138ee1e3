"""Decisions change training images and nothing else; decisions on other data are refused."""

import csv
import hashlib
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from robustcls.auditing.apply import apply_decisions
from robustcls.auditing.decisions import COLUMNS, read_decisions, write_findings
from robustcls.auditing.run import check_place
from robustcls.core.errors import InputError
from robustcls.data.duplicates import digest
from robustcls.data.splits import load_all, load_split
from robustcls.results.audit import BOUNDARY, LABEL_ERROR, Finding


@pytest.fixture
def photos(tmp_path) -> Path:
    """Return a folder with train/ and test/ of two classes, where file names occur in both classes."""
    draws = numpy.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draws.integers(0, 255, (16, 16, 3), dtype=numpy.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def decide(tmp_path, photos):
    """Write decisions, each (file, decision, new_label)."""

    def write(*decisions, data=None, **changed) -> Path:
        images = load_all(data or f"folder:{photos}")
        names = images.files or tuple(map(str, images.index.tolist()))
        path = tmp_path / "labels.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for image, decision, new in decisions:
                row = names.index(image) if image in names else 0
                label = images.classes[int(images.labels[row])]
                writer.writerow(
                    {"image": image, "label": label, "guess": "dog", "reason": "", "score": "0",
                     "digest": digest(images.pixels[row]), "decision": decision, "new_label": new, **changed}
                )  # fmt: skip
        return path

    return write


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


def test_what_was_decided_is_done_and_nothing_else(photos, decide, tmp_path):
    before = hashes(photos)
    path = decide(
        ("train/cat/0.png", "relabel", "dog"), ("train/cat/1.png", "remove", ""), ("train/cat/2.png", "keep", ""),
        ("train/dog/5.png", "", "cat"), ("train/cat/3.png", "Relabel", ""),
    )  # fmt: skip
    done = apply_decisions(f"folder:{photos}", path, tmp_path / "new")
    assert (done.relabelled, done.removed, done.kept, done.images) == (2, 1, 1, 11)
    after = hashes(tmp_path / "new")
    assert hashes(photos) == before
    moved = {name: value for name, value in before.items() if name not in [f"train/cat/{i}.png" for i in (0, 1, 3)]}
    there = {name: value for name, value in after.items() if name in moved}
    assert there.keys() == moved.keys()
    dogs = [value for name, value in after.items() if name.startswith("train/dog/")]
    assert len(dogs) == 8
    assert {before["train/cat/0.png"], before["train/cat/3.png"]} < set(dogs)
    assert before["train/cat/1.png"] not in after.values()
    assert {k: v for k, v in after.items() if k.startswith("test")} == {
        k: v for k, v in before.items() if k.startswith("test")
    }
    again = load_all(f"folder:{tmp_path / 'new'}")
    assert again.labels.bincount().tolist() == [3, 8]


def test_a_folder_without_splits_keeps_the_ones_that_it_was_read_with(photos, decide, tmp_path):
    alone = tmp_path / "alone"
    (photos / "train").rename(alone)
    data = f"folder:{alone}"
    train, test = load_all(data), load_split(data, "test")
    path = decide((train.files[0], "remove", ""), data=data)
    apply_decisions(data, path, tmp_path / "new")
    new = f"folder:{tmp_path / 'new'}"
    assert torch.equal(load_split(new, "test").pixels, test.pixels)
    assert torch.equal(load_all(new).pixels, train.pixels[1:])


def test_what_a_list_leaves_out_is_not_copied(photos, decide, tmp_path):
    (photos / "test").rename(tmp_path / "test")
    listed = [f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(2, 6)]
    (tmp_path / "list.txt").write_text("\n".join(listed), encoding="utf-8")
    data = f"folder:{photos}(list={tmp_path / 'list.txt'})"
    path = decide(("train/cat/2.png", "relabel", "dog"), ("train/dog/3.png", "remove", ""), data=data)
    done = apply_decisions(data, path, tmp_path / "new")
    before, after = hashes(photos), hashes(tmp_path / "new")
    assert done.images == len(after) == 7
    assert sorted(after.values()) == sorted(before[name] for name in listed if name != "train/dog/3.png")


def test_a_list_that_fits_no_test_image_is_refused(photos, decide, tmp_path):
    (tmp_path / "list.txt").write_text("train/cat/1.png\ntrain/cat/2.png\ntrain/dog/1.png\n", encoding="utf-8")
    data = f"folder:{photos}(list={tmp_path / 'list.txt'})"
    with pytest.raises(InputError, match="3 of 3 lines name no image"):
        apply_decisions(data, decide(("train/cat/1.png", "remove", ""), data=data), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_list_holds_for_test_images_too(photos, decide, tmp_path):
    (tmp_path / "list.txt").write_text("cat/0.png\ncat/1.png\ndog/1.png\n", encoding="utf-8")
    data = f"folder:{photos}(list={tmp_path / 'list.txt'})"
    done = apply_decisions(data, decide(("train/cat/1.png", "remove", ""), data=data), tmp_path / "new")
    assert done.images == 2
    kept = ["test/cat/0.png", "test/cat/1.png", "test/dog/1.png", "train/cat/0.png", "train/dog/1.png"]
    assert list(hashes(tmp_path / "new")) == kept


def test_files_that_were_skipped_as_corrupt_are_not_copied(photos, decide, tmp_path):
    path = decide(("train/cat/1.png", "remove", ""))
    (photos / "train" / "dog" / "4.png").write_bytes(b"no image")
    done = apply_decisions(f"folder:{photos}", path, tmp_path / "new", skip_corrupt=True)
    assert done.images == 10
    assert not (tmp_path / "new" / "train" / "dog" / "4.png").exists()


def test_images_that_nobody_decided_about_keep_their_names(photos, decide, tmp_path):
    """cat/1.png moves to dog, which already has a 1.png and a file with the alternative name that would be used."""
    before = hashes(photos)
    taken = photos / "train" / "dog" / "000001-1.png"
    (photos / "train" / "dog" / "5.png").rename(taken)
    path = decide(("train/cat/1.png", "relabel", "dog"), ("train/dog/0.png", "remove", ""))
    assert apply_decisions(f"folder:{photos}", path, tmp_path / "new").images == 11
    after = hashes(tmp_path / "new")
    unmoved = [f"train/dog/{i}.png" for i in range(1, 5)] + [f"train/cat/{i}.png" for i in (0, 2, 3, 4, 5)]
    assert {name: after[name] for name in unmoved} == {name: before[name] for name in unmoved}
    assert after["train/dog/000001-1.png"] == before["train/dog/5.png"]
    assert before["train/cat/1.png"] in after.values()
    assert len([name for name in after if name.startswith("train/")]) == 11


def test_a_class_that_the_image_has_already_is_kept(photos, decide, tmp_path):
    path = decide(("train/cat/0.png", "relabel", "cat"), ("train/cat/1.png", "relabel", "dog"))
    done = apply_decisions(f"folder:{photos}", path, tmp_path / "new")
    assert (done.relabelled, done.removed, done.kept) == (1, 0, 1)


def test_near_the_boundary_there_is_no_guess(tmp_path):
    made = [Finding(i, 0, 1, reason, 0.1, "0" * 16) for i, reason in enumerate((LABEL_ERROR, BOUNDARY))]
    write_findings(tmp_path / "a.csv", made, ["cat", "dog"])
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        assert [row["guess"] for row in csv.DictReader(file)] == ["dog", ""]


def test_images_that_are_no_files_become_png(decide, tmp_path):
    data = "digits(size=8)"
    images = load_all(data)
    seven = images.classes[(int(images.labels[3]) + 1) % 10]
    path = decide(("3", "relabel", seven), ("4", "remove", ""), data=data)
    done = apply_decisions(data, path, tmp_path / "new")
    assert done.images == len(images) - 1
    again = load_all(f"folder:{tmp_path / 'new'}")
    place = again.files.index(f"train/{seven}/000003.png")
    assert torch.equal(again.pixels[place], images.pixels[3])
    assert again.classes[int(again.labels[place])] == seven
    test, before = load_split(f"folder:{tmp_path / 'new'}", "test"), load_split(data, "test")
    assert torch.equal(test.labels.bincount(), before.labels.bincount())
    assert sorted(map(digest, test.pixels)) == sorted(map(digest, before.pixels))


@pytest.mark.parametrize(
    ("decision", "changed", "said"),
    [
        (
            ("test/cat/0.png", "remove", ""),
            {},
            "“test/cat/0.png” is not a training image of .*test images are not changed",
        ),
        (("train/cat/0.png", "relabel", "dgo"), {}, "labels.csv, line 2: unknown class 'dgo': did you mean 'dog'"),
        (
            ("train/cat/0.png", "remove", ""),
            {"digest": "0" * 16},
            "line 2: .* is not the image of class “cat” that was audited",
        ),
        (("train/cat/0.png", "remove", ""), {"label": "dog"}, "is not the image of class “dog” that was audited"),
        (("train/cat/0.png", "delete", ""), {}, "line 2: decision 'delete' is not known: write keep, relabel, remove"),
        (("train/cat/0.png", "relabel", ""), {"guess": ""}, "is to be relabelled: name its class in new_label"),
    ],
)
def test_refuses_what_does_not_fit(photos, decide, tmp_path, decision, changed, said):
    path = decide(decision, **changed)
    with pytest.raises(InputError, match=said):
        apply_decisions(f"folder:{photos}", path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_refuses_to_empty_a_class(photos, decide, tmp_path):
    path = decide(*((f"train/cat/{i}.png", "remove", "") for i in range(6)))
    with pytest.raises(InputError, match="leaves no training image in class “cat”"):
        apply_decisions(f"folder:{photos}", path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_refuses_a_place_that_is_taken(photos, decide):
    with pytest.raises(InputError, match="exists already"):
        apply_decisions(f"folder:{photos}", decide(("train/cat/0.png", "remove", "")), photos)


def test_refuses_two_decisions_on_one_image(decide):
    path = decide(("train/cat/0.png", "remove", ""), ("train/cat/0.png", "keep", ""))
    with pytest.raises(InputError, match="line 3: “train/cat/0.png” has a different decision before"):
        read_decisions(path)


def test_refuses_other_files(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no column 'image'"):
        read_decisions(other)
    with pytest.raises(InputError, match="cannot read .*missing.csv"):
        read_decisions(tmp_path / "missing.csv")
    other.write_bytes(b"\xe9\x00")
    with pytest.raises(InputError, match="it is not UTF-8 text"):
        read_decisions(other)
    other.write_text("decision,image,label,digest\n", encoding="utf-16")
    with pytest.raises(InputError, match="is UTF-16.* save it as CSV in UTF-8"):
        read_decisions(other)


NAMES = [
    "cat/a\nb.png", "cat/a\r\nb.png", "cat/a\rb.png", "cat/\u2028.png", "cat/\x0c.png", "cat/\x85.png", "=HYPERLINK(1).png",
    "+1.png", "@a.png", "'=a.png", "'a.png", 'cat/"a", "b";.png', "-1",
]  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_its_own_tables_can_be_read_back(tmp_path, delimiter):
    """For any file names and any delimiter that a spreadsheet writes, no cell is a formula and no digest a number."""
    digests = ["1234567890123456", "12e3456789012345", "0" * 16]
    made = [
        Finding(i, i % 3, (i + 1) % 3, LABEL_ERROR, -0.5, digests[i % 3], name, odds=3.0)
        for i, name in enumerate(NAMES)
    ]
    classes = [" cat", "=dog", "two  words"]
    write_findings(tmp_path / "a.csv", made, classes)
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows({**row, "decision": "relabel"} for row in rows)
    for row in rows:
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())
        assert row["digest"].startswith("x")
    found = read_decisions(tmp_path / "a.csv")
    assert [one.image for one in found] == NAMES
    assert [one.label for one in found] == [classes[one.label] for one in made]
    assert [one.new_label for one in found] == [classes[one.guess] for one in made]
    assert [one.digest for one in found] == [one.digest for one in made]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decision,image,label,digest\nremove\n", "line 2: “” is not a training image"),
        ('decision,image,label,digest\n,a,b,c\nremove,"train/cat/0.png,cat,1\n,d,e,f\n', "line 3: .*quotation mark is missing"),
        ("decision,image,label,digest\nremove,train/cat/0.png,x,cat,1\n", "line 2 has more cells"),
        ("decision,image,label,digest\n,train/cat/0.png,cat,1\n", "decides nothing: write keep, relabel or remove"),
        ("decision,image,label,digest\n\nkeep,train/cat/9.png,cat,1\n", "line 3: “train/cat/9.png” is not a training image"),
    ],
)  # fmt: skip
def test_refuses_damaged_tables_with_file_and_line(photos, tmp_path, text, said):
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"labels.csv.*{said}") as caught:
        apply_decisions(f"folder:{photos}", tmp_path / "labels.csv", tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_cells_that_a_spreadsheet_leaves_out_at_the_end_are_empty(tmp_path):
    (tmp_path / "a.csv").write_text("image,label,digest,decision\na,b,c\nd,e,f,keep\n", encoding="utf-8")
    assert [one.image for one in read_decisions(tmp_path / "a.csv")] == ["d"]


@pytest.mark.parametrize("written", [" two  words", "two  words", "two  words "])
def test_class_names_with_spaces(photos, decide, tmp_path, written):
    for split in ("train", "test"):
        (photos / split / "dog").rename(photos / split / " two  words")
    done = apply_decisions(f"folder:{photos}", decide(("train/cat/0.png", "relabel", written)), tmp_path / "new")
    assert done.relabelled == 1
    assert len(list((tmp_path / "new" / "train" / " two  words").iterdir())) == 7


def test_refuses_to_write_into_the_data(photos, decide):
    path, before = decide(("train/cat/0.png", "remove", "")), hashes(photos)
    for out in (photos / "new", photos / "train" / "new"):
        with pytest.raises(InputError, match="lies inside the data"):
            apply_decisions(f"folder:{photos}", path, out)
        with pytest.raises(InputError, match="lies inside the data"):
            check_place(out, f"folder:{photos}")
        assert not out.exists()
    assert hashes(photos) == before
