"""Files that map the classes of the data to the outputs of a model."""

import json

import pytest

from robustcls.core.class_files import read_listing
from robustcls.core.class_map import match_classes
from robustcls.core.errors import InputError


def match(data, listing, outputs=4):
    return match_classes(data, (), outputs, model="net", listing=listing)


LISTS = {  # files about a model with four outputs
    "lines": "tench\nwhite shark\nray\ncock\n",
    "synonyms": "tench, Tinca tinca\ngreat white shark, white shark, man-eater\nray\ncock\n",
    "synsets": "n01440764 tench, Tinca tinca\nn01484850 white shark, man-eater\nn01491361 ray\nn01514668 cock\n",
    "json": json.dumps(["tench", "white shark", "ray", "cock"]),
    "index": json.dumps(
        {"0": ["n01440764", "tench"], "1": ["n01484850", "white_shark"], "2": ["n01491361", "ray"], "3": ["n0", "cock"]}
    ),
    "tabs": "ray\t2\nwhite_shark\t1\n",
    "equals": "# mine\nray = 2\nwhite_shark = 1\n",
    "commas": "ray,2\nwhite_shark,1\n",
    "spaces": "ray 2\nwhite shark 1\n",
    "colons": "ray: 2\nwhite_shark: 1\n",
    "semicolons": "ray;2\nwhite_shark;1\n",
    "number first": "2=ray\n1=white_shark\n",
    "number, comma": "1,white shark\n2,ray\n",
    "number, space": "1 white shark\n2 ray\n",
    "all numbers first": "0: tench, Tinca tinca\n1: white shark, man-eater\n2: ray\n3: cock\n",
    "some numbers first": "0: tench\n1: white shark\n2: ray\n",
    "some index": json.dumps({"1": ["n01484850", "white_shark"], "2": ["n01491361", "ray"]}),
    "index to name": json.dumps({"2": "ray", "1": "white_shark"}),
    "pairs": json.dumps({"ray": 2, "white_shark": 1}),
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_file_maps_folders_to_outputs(kind, tmp_path):
    path, data = tmp_path / "classes.txt", ("ray", "white_shark")
    path.write_text(LISTS[kind], encoding="utf-8")
    found = match(data, read_listing(str(path), data))
    assert found.outputs == (2, 1)
    assert "classes.txt" in found.rule


@pytest.mark.parametrize("kind", ["synsets", "index"])
def test_a_list_with_wnids_maps_folders_named_by_them(kind, tmp_path):
    path, data = tmp_path / "classes.txt", ("n01440764", "n01491361")
    path.write_text(LISTS[kind], encoding="utf-8")
    found = match(data, read_listing(str(path), data))
    assert (found.outputs, found.names[0], found.names[2]) == ((0, 2), "tench", "ray")


@pytest.mark.parametrize(
    ("text", "data", "outputs"),
    [
        ("3=5\n5=3\n", ("3", "5"), (5, 3)),
        ('{"0": 3, "1": 5}', ("0", "1"), (3, 5)),
        ("0: a\n1: b\n2: c\n3: d\n4: e\n5: f\n", ("3", "5"), (3, 5)),
        ("5,3\n6,4\n", ("5", "6"), (3, 4)),
        ("0 years\n1 years\n2 years\n3 years\n4 years\n5 years\n", ("5 years", "1 years"), (5, 1)),
    ],
)
def test_folders_whose_names_have_numbers_are_no_outputs(text, data, outputs, tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text(text, encoding="utf-8")
    assert match(data, read_listing(str(path), data), 6).outputs == outputs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=7\nb=1\n", "'a' is output 7, net has 0 to 3"),
        ("a=wolf\nb=1\n", "calls 'a' 'wolf', which is no class of net"),
        ("a=1\n", "lacks 'b' of net: .* such as b=0"),
        ("a\tx\nb\t2\n", "calls 'a' 'x'"),
        ("a=-1\nb=2\n", "calls 'a' '-1'"),
        ('{"a": -1, "b": 2}', "'a' is output -1"),
        ("1=a\n3=a\n2=b\n", "names 'a' twice"),
        ("1=a\n", "lacks 'b'"),
        ("one\ntwo\n", "lists 2 classes, net gives 4 outputs: .* such as a=0"),
        ("w\nx\ny\nz\n", "'a' is none of the model's"),
        ("a=1\na=2\nb=3", "names 'a' twice"),
        ("", "names no class"),
        ("{", "is not JSON"),
        ('{"a": [1]}', "is not a map of classes"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(text, words, tmp_path):
    path, data = tmp_path / "classes.txt", ("a", "b")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        match(data, read_listing(str(path), data))


def test_no_file():
    with pytest.raises(InputError, match="cannot read nothing.txt"):
        read_listing("nothing.txt", ("a", "b"))
