"""Which output of a model each class of the data is."""

import json

import pytest

from robustcls.core.class_files import read_listing
from robustcls.core.class_map import Listing, match_classes
from robustcls.core.errors import InputError

NUMBERED = ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")  # as folders sort


def match(data, known=(), outputs=None, listing=None):
    return match_classes(data, known, outputs or len(known), model="net", listing=listing)


@pytest.mark.parametrize("known", [("cat", "dog", "owl"), ("0", "1", "2")])
def test_the_same_names_in_the_same_order_are_nothing_to_say(known):
    found = match(known, known)
    assert (found.outputs, found.names, found.rule) == ((0, 1, 2), known, "")


@pytest.mark.parametrize(
    ("data", "known", "outputs"),
    [
        (("cat", "dog", "owl"), ("owl", "cat", "dog"), (1, 2, 0)),
        (("dog", "owl"), ("cat", "dog", "fox", "owl"), (1, 3)),  # a small folder of a large model
        (("Golden Retriever", "owl"), ("owl", "golden_retriever"), (1, 0)),
        (("cafe\u0301", "tea"), ("caf\u00e9", "tea"), (0, 1)),  # one accent, two ways to write it
        (NUMBERED, tuple(map(str, range(12))), tuple(map(int, NUMBERED))),
        (tuple(map(str, range(12))), NUMBERED, tuple(NUMBERED.index(str(k)) for k in range(12))),
    ],
)
def test_classes_are_mapped_by_name(data, known, outputs):
    found = match(data, known)
    assert found.outputs == outputs
    assert found.names == known
    assert "by name" in found.rule


def test_what_no_class_of_the_data_uses_stays_a_possible_prediction_and_is_said():
    assert "the other 998 outputs stay possible predictions" in match(("5", "3"), tuple(map(str, range(1000)))).rule
    assert "stay possible" not in match(("b", "a"), ("a", "b")).rule


@pytest.mark.parametrize("known", [(), ("tench", "shark", "ray", "cock")])
def test_folders_named_by_numbers_are_outputs(known):
    found = match(("0", "3"), known, 4)
    assert found.outputs == (0, 3)
    assert "numbers of the model's outputs" in found.rule
    assert found.names == (known or ("0", "1", "2", "3"))


def test_outputs_without_names_are_taken_in_order_and_said():
    found = match(("cat", "dog"), (), 2)
    assert (found.outputs, found.names) == ((0, 1), ("cat", "dog"))
    assert "no class names" in found.rule


def test_a_thousand_wnids_in_their_order_are_imagenets():
    wnids = tuple(f"n{number:08d}" for number in range(1000))
    found = match(wnids, tuple(f"name {number}" for number in range(1000)))
    assert found.outputs == tuple(range(1000))
    assert "1000 wnids" in found.rule


@pytest.mark.parametrize(
    ("data", "known", "outputs", "words"),
    [
        (("cat", "cow", "dog"), ("cat", "dog", "owl"), 3, "'cow' is none of the model's, which has 'owl' instead"),
        (("n01440764", "n02102040"), (), 1000, "gives 1000 outputs without names, the data has 2 .* 'n01440764'"),
        (tuple("abcdefghij"), (), 11, "gives 11 outputs .* the data has 10"),
        (tuple("abcdefghijkl"), (), 8, "gives 8 outputs .* the data has 12"),
        (tuple("abcd"), tuple("abc"), 3, "knows 3 classes .* the data has 4: 'd' is none"),
        (tuple("ab"), tuple("abc"), 4, "names 3 classes and gives 4 outputs"),
        (("n01440764", "cat"), ("cat", "tench"), 2, "'n01440764' is none .* list of ImageNet's wnids"),
        (("crane", "ox"), ("crane", "ox", "crane"), 3, "outputs 0 and 2 are called so"),
        (tuple(map(str, sorted(range(1, 13), key=str))), (), 12, "numbers out of order"),
        (("Cat", "cat"), ("cat", "dog"), 2, "'Cat' and 'cat' are both output 0"),
    ],
)
def test_classes_that_do_not_match_are_refused(data, known, outputs, words):
    with pytest.raises(InputError, match=words) as caught:
        match(data, known, outputs)
    assert "--classes FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


LISTS = {  # of the outputs of a model with four
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
    "pairs": json.dumps({"ray": 2, "white_shark": 1}),
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_file_maps_folders_to_outputs(kind, tmp_path):
    path, data = tmp_path / "classes.txt", ("ray", "white_shark")
    path.write_text(LISTS[kind], encoding="utf-8")
    found = match(data, (), 4, read_listing(str(path), data))
    assert found.outputs == (2, 1)
    assert "classes.txt" in found.rule


@pytest.mark.parametrize("kind", ["synsets", "index"])
def test_a_list_with_wnids_maps_folders_named_by_them(kind, tmp_path):
    path, data = tmp_path / "classes.txt", ("n01440764", "n01491361")
    path.write_text(LISTS[kind], encoding="utf-8")
    found = match(data, (), 4, read_listing(str(path), data))
    assert (found.outputs, found.names[0], found.names[2]) == ((0, 2), "tench", "ray")


def test_a_file_may_name_the_models_classes_and_join_folders():
    listing = Listing("f", targets={"husky": "dog", "beagle": "dog", "tabby": "cat"})
    assert match(("beagle", "husky", "tabby"), ("cat", "dog", "owl"), 3, listing).outputs == (1, 1, 0)


def test_what_a_file_leaves_out_is_mapped_by_name():
    assert match(("cow", "cat"), ("cat", "ox"), 2, Listing("f", targets={"cow": "ox"})).outputs == (1, 0)


def test_a_file_wins_over_names_but_not_where_it_is_about_another_model():
    listing = Listing("f", targets={"a": 1, "b": 0})
    assert match(("a", "b"), ("a", "b"), 2, listing).outputs == (1, 0)
    far = Listing("f", targets={"a": 700, "b": 300})
    assert match(("a", "b"), ("a", "b"), 2, far).outputs == (0, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=7\nb=1\n", "'a' is output 7, net has 0 to 3"),
        ("a=wolf\nb=1\n", "calls 'a' 'wolf', which is no class of net"),
        ("a=1\n", "lacks 'b' of net"),
        ("one\ntwo\n", "lists 2 classes, net gives 4 outputs"),
        ("w\nx\ny\nz\n", "'a' is none of the model's"),
        ("a=1\na=2\nb=3", "names 'a' twice"),
        ("", "names no class"),
        ("{", "is not JSON"),
        ('{"a": [1]}', "is no map of classes"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(text, words, tmp_path):
    path, data = tmp_path / "classes.txt", ("a", "b")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        match(data, (), 4, read_listing(str(path), data))


def test_no_file():
    with pytest.raises(InputError, match="cannot read nothing.txt"):
        read_listing("nothing.txt", ("a", "b"))
