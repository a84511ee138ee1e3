"""Wrong class files: the message names the error in the file."""

import pytest

from robustcls.core.class_files import read_listing
from robustcls.core.class_map import match_classes
from robustcls.core.errors import InputError

DATA = ("one", "two", "zero")


def mapped(text, path, known=("zero", "one", "two")):
    path.write_text(text)
    listing = read_listing(str(path), DATA)
    return match_classes(DATA, known, 3, model="mine.pt", listing=listing)


@pytest.mark.parametrize("known", [("zero", "one", "two"), ()])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zero: 0\none: 1\ntwo -> 2\n", "'two -> 2' is not a class of the data and its output, as 'zero: 0' is"),
        ("zero=0\none 1\ntwo=2\n", "'one 1' is not a class of the data and its output, as 'zero=0' is"),
        ("zwei\neins\nnull\n", "lists 3 outputs, 'zwei', 'eins', 'null': by it 'one' is none of the model's"),
        (
            "cat=0\ndog=1\nsnake=2\n",
            "names 'cat', 'dog', 'snake', none of which is a class of the data, 'one', 'two', 'zero'",
        ),
    ],
)
def test_what_is_wrong_in_it_is_said(text, message, known, tmp_path):
    with pytest.raises(InputError) as caught:
        mapped(text, tmp_path / "classes.txt", known)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "classes.txt"))
    assert "`classes" not in str(caught.value), "there is a file"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["zero=0\none=1\ntwo=2\n", "zero, nought\none, unit\ntwo\n", "two=2\n", "0: zero\n1: one\n2: two\n"],
)  # fmt: skip
def test_what_is_right_goes_on(text, tmp_path):
    assert mapped(text, tmp_path / "classes.txt").outputs == (1, 2, 0)
