import pytest

from robustcls.core.class_tree import read_tree
from robustcls.core.errors import InputError

CLASSES = ("airplane", "bird", "cat", "dog", "ship", "truck")
TREE = """
[vehicle]
air = ["airplane"]
sea-and-land = ["ship", "truck"]
[animal]
bird = ["bird"]
mammal.pet = ["Cat", "dog"]
"""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree.toml").write_text(TREE, encoding="utf-8")
    return read_tree(str(tmp_path / "tree.toml"), CLASSES)


def test_distances_are_edges_up_to_the_lowest_common_ancestor(tree):
    """The expected distances are counted from the sets of ancestors."""
    paths = {
        "airplane": ["vehicle", "vehicle/air"], "bird": ["animal", "animal/bird"],
        "cat": ["animal", "animal/mammal", "animal/mammal/pet"], "dog": ["animal", "animal/mammal", "animal/mammal/pet"],
        "ship": ["vehicle", "vehicle/sea"], "truck": ["vehicle", "vehicle/sea"],
    }  # fmt: skip
    for i, one in enumerate(CLASSES):
        for j, other in enumerate(CLASSES):
            expected = 0 if i == j else 1 + len(set(paths[one]) - set(paths[other]))
            assert tree.distance(i, j) == expected, (one, other)
    assert [tree.distance(2, label) for label in (3, 1, 0, None)] == [1, 3, 4, 4]
    assert (tree.distance(1, 2), tree.height) == (2, 4), "bird hangs higher up than cat"


def test_groups_by_depth(tree):
    assert tree.groups_at(1) == (("vehicle", "animal"), (0, 1, 1, 1, 0, 0)), "in the file's order"
    names, of = tree.groups_at(2)
    assert names == ("vehicle/air", "vehicle/sea-and-land", "animal/bird", "animal/mammal")
    assert of == (0, 2, 3, 3, 1, 1)
    assert tree.groups_at(3)[1] == tree.groups_at(9)[1] == of, "no class is deeper"
    assert tree.groups_at(3)[0][-1] == "animal/mammal/pet"


def test_the_order_of_the_models_classes_does_not_matter(tree):
    turned = read_tree(tree.source, CLASSES[::-1])
    assert turned.groups_at(1) == (("vehicle", "animal"), (0, 0, 1, 1, 1, 0))
    assert turned.distance(5, 0) == tree.distance(0, 5)


def test_numbers_are_names(tmp_path):
    (tmp_path / "t.toml").write_text('even = [0, 2]\nodd = ["1", 3]\n', encoding="utf-8")
    assert read_tree(str(tmp_path / "t.toml"), ("0", "1", "2", "3")).groups_at(1) == (("even", "odd"), (0, 1, 0, 1))


def test_groups_of_one_name_in_different_places_stay_apart(tmp_path):
    (tmp_path / "t.toml").write_text('a.b = ["0"]\nc.b = ["1"]\nb = ["2"]\n', encoding="utf-8")
    assert read_tree(str(tmp_path / "t.toml"), ("0", "1", "2")).groups_at(2) == (("a/b", "c/b", "b"), (0, 1, 2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"animal/bird" = ["bird"]' + TREE, "the group 'animal/bird' has a / in its name"),
        (TREE.replace(', "truck"', ""), "forgets 'truck': name each of the 6 classes"),
        (TREE.replace('"ship", "truck"', '"lorry"'), "forgets 'ship' and 1 more"),
        (TREE.replace('"ship"', '"ship", "lorry"'), "names 'lorry', which is no class of the model"),
        (
            TREE.replace('"ship"', '"ship", "CAT"'),
            r"names 'Cat' twice, in vehicle\.sea-and-land and animal\.mammal\.pet",
        ),
        (TREE.replace('["bird"]', '"bird"'), r"animal\.bird is 'bird': give a table of groups, or a list"),
        (TREE.replace('["bird"]', "[]"), r"animal\.bird is empty"),
        (TREE.replace('["bird"]', "[true]"), r"animal\.bird holds \[True\]"),
        (TREE + "[more]", "more is empty"),
        (
            '[all]\none = ["airplane", "bird", "cat", "dog", "ship", "truck"]',
            "has one group, 'all.one', which",
        ),
        ("", "the file is empty"),
        ("[a", "is not TOML"),
        (None, "cannot read"),
    ],
)
def test_a_tree_that_will_not_do_is_refused_in_one_line(text, said, tmp_path):
    if text is not None:
        (tmp_path / "t.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        read_tree(str(tmp_path / "t.toml"), CLASSES)
    assert "\n" not in str(caught.value)
