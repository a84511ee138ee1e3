"""Mapping the classes of the data to the outputs of a model."""

import pytest

from robustcls.core.class_map import Listing, match_classes, own_names
from robustcls.core.errors import InputError

NUMBERED = ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")  # as folders sort


def match(data, known=(), outputs=None, listing=None, **more):
    return match_classes(data, known, outputs or len(known), model="net", listing=listing, **more)


@pytest.mark.parametrize("known", [("cat", "dog", "owl"), ("0", "1", "2")])
def test_the_same_names_in_the_same_order_need_no_message(known):
    found = match(known, known)
    assert (found.outputs, found.names, found.rule) == ((0, 1, 2), known, "")


@pytest.mark.parametrize(
    ("data", "known", "outputs"),
    [
        (("cat", "dog", "owl"), ("owl", "cat", "dog"), (1, 2, 0)),
        (("dog", "owl"), ("cat", "dog", "fox", "owl"), (1, 3)),  # only some of the model's classes
        (("Golden Retriever", "owl"), ("owl", "golden_retriever"), (1, 0)),
        (("cafe\u0301", "tea"), ("caf\u00e9", "tea"), (0, 1)),  # the same accent in two encodings
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
    assert "the other 998 outputs remain possible predictions" in match(("5", "3"), tuple(map(str, range(1000)))).rule
    assert "remain possible" not in match(("b", "a"), ("a", "b")).rule


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
        (("crane", "ox"), ("crane", "ox", "crane"), 3, "outputs 0 and 2 both have this name"),
        (tuple(map(str, sorted(range(1, 13), key=str))), (), 12, "numbers out of order"),
        (("Cat", "cat"), ("cat", "dog"), 2, "'Cat' and 'cat' are both output 0"),
    ],
)
def test_classes_that_do_not_match_are_refused(data, known, outputs, words):
    with pytest.raises(InputError, match=words) as caught:
        match(data, known, outputs)
    assert "`classes=FILE`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_may_name_the_models_classes_and_join_folders():
    listing = Listing("f", targets={"husky": "dog", "beagle": "dog", "tabby": "cat"})
    assert match(("beagle", "husky", "tabby"), ("cat", "dog", "owl"), 3, listing).outputs == (1, 1, 0)


def test_what_a_file_leaves_out_is_mapped_by_name():
    assert match(("cow", "cat"), ("cat", "ox"), 2, Listing("f", targets={"cow": "ox"})).outputs == (1, 0)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("numbers", [(700, 300), (1, 0)])
def test_a_file_that_contradicts_the_models_names_is_refused_unless_another_model_may_be_meant(numbers, shared):
    listing = Listing("f", targets=dict(zip("ab", numbers, strict=True)))
    if shared:
        found = match(("a", "b"), ("a", "b"), 2, listing, shared=True)
        assert found.outputs == (0, 1)
        assert "f is not used" in found.rule
    else:
        with pytest.raises(InputError, match="'a' (is|for) output"):
            match(("a", "b"), ("a", "b"), 2, listing)


def test_a_list_in_another_order_than_the_models_own_is_refused_and_synonyms_are_not():
    known = ("tench", "crane", "shark", "crane")
    with pytest.raises(InputError, match="lists 'tench' as output 2, but net itself gives this name to output 0"):
        match(("tench",), known, 4, Listing("f", (("shark",), ("crane",), ("tench",), ("crane",))))
    listing = Listing("f", (("Tinca", "tench"), ("crane", "bird"), ("white shark", "tench"), ("crane", "machine")))
    assert match(("bird", "machine"), known, 4, listing).outputs == (1, 3)


def test_a_file_may_take_one_of_many_classes_for_another_and_that_is_said():
    found = match(("seal",), ("cat", "seal", "envelope"), 3, Listing("f", targets={"seal": "envelope"}))
    assert found.outputs == (2,)
    assert "the model calls output 1 'seal'" in found.rule


@pytest.mark.parametrize("target", ["-1", "_1", "1.0"])
def test_what_only_resembles_a_number_is_none(target):
    with pytest.raises(InputError, match="which is no class of net"):
        match(("cat",), (), 3, Listing("f", targets={"cat": target}))
    with pytest.raises(InputError, match="is none of the model's"):
        match((target,), ("0", "1", "2"), 3)


def test_numbers_that_a_model_calls_its_classes_are_names():
    with pytest.raises(InputError, match="'cat' is none of the model's"):
        match(("cat", "dog", "owl"), ("0", "1", "2"))
    assert match(("2", "0"), ("0", "1", "2")).outputs == (2, 0)
    assert own_names(("0", "1", "2")) == ()
    assert own_names(("1", "2", "3")) == ("1", "2", "3")


def wnids(count=1000):
    return tuple(f"n{number:08}" for number in range(count))


def test_wnids_meet_names_in_alphabetical_order_with_a_warning():
    names = [f"thing {number:04}" for number in range(1000)]
    assert "not that of wnids" in match_classes(wnids(), names, 1000, model="m").rule
    mixed = names[500:] + names[:500]
    assert "not that of wnids" not in match_classes(wnids(), mixed, 1000, model="m").rule


def test_a_thousand_classes_that_are_no_wnids_meet_a_thousand_outputs_with_a_warning():
    assert "which is not ImageNet's" in match_classes([f"c{i:04}" for i in range(1000)], (), 1000, model="m").rule
    assert "which is not ImageNet's" not in match_classes(wnids(), (), 1000, model="m").rule


def test_ten_wnids_and_a_thousand_outputs_are_refused_with_what_to_write():
    with pytest.raises(InputError, match="lines such as n00000000=0"):
        match_classes(wnids(10), (), 1000, model="m")
