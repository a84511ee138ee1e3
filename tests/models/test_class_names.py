"""Class names that other training programs store beside the weights."""

import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.models.foreign import find_class_names
from robustcls.models.loading import build_model, read_model
from robustcls.models.transfer import initialise

NAMES = ("owl", "cat", "dog")
ARCH = "vgg11(width=0.05)"


@pytest.mark.parametrize(
    "content",
    [
        {"classes": list(NAMES)},
        {"class_names": NAMES},
        {"class_to_idx": {"cat": 1, "dog": 2, "owl": 0}},
        {"idx_to_class": {2: "dog", 0: "owl", 1: "cat"}},
        {"config": {"id2label": {"0": "owl", "1": "cat", "2": "dog"}, "label2id": {"owl": 0, "cat": 1, "dog": 2}}},
        {"hyper_parameters": {"lr": 0.1, "class_names": list(NAMES)}, "names": ["a", "b"]},
    ],
)
def test_names_are_found_in_the_outputs_order(content):
    names, said = find_class_names({**content, "state_dict": {}}, 3, "m.pt")
    assert names == NAMES
    assert "m.pt: its class names are those under" in said[0]


def test_digits_are_names_where_a_mapping_gives_their_numbers():
    assert find_class_names({"class_to_idx": {"7": 0, "1": 1}}, 2, "m.pt")[0] == ("7", "1")


@pytest.mark.parametrize(
    "content",
    [
        {"classes": 3},
        {"classes": [0, 1, 2]},
        {"class_to_idx": {"cat": 0, "dog": 1, "owl": 5}},
        {"optimizer": {"names": list(NAMES)}},
        [NAMES],
    ],
)
def test_what_names_no_outputs_is_passed_over(content):
    assert find_class_names(content, 3, "m.pt") == ((), [])


def test_names_that_are_not_as_many_as_the_outputs_are_said():
    names, said = find_class_names({"classes": ["a", "b"]}, 3, "m.pt")
    assert names == ()
    assert said == ["m.pt: names 2 classes under 'classes', not its 3 outputs"]
    assert find_class_names({"classes": ["a", "b"]}, 1, "m.pt")[0] == ("a", "b")  # one logit for two classes


def test_names_in_two_orders_are_refused():
    with pytest.raises(InputError, match="in two ways, under 'classes' and 'class_to_idx'"):
        find_class_names({"classes": list(NAMES), "class_to_idx": {"cat": 0, "dog": 1, "owl": 2}}, 3, "m.pt")


@pytest.fixture
def foreign(tmp_path):
    """Return a file in which the rows of the head are in the order of NAMES, and its network."""
    torch.manual_seed(0)
    net = build(ARCH, classes=NAMES, input_size=(3, 8, 8)).net
    torch.save({"state_dict": net.state_dict(), "classes": list(NAMES)}, tmp_path / "m.pt")
    return str(tmp_path / "m.pt"), net


def test_a_model_knows_the_names_in_its_file(foreign):
    path, _ = foreign
    loaded = build_model(read_model(path), arch=ARCH, classes=("cat", "dog", "owl"), input_size=(3, 8, 8))
    assert (loaded.classes, tuple(loaded.model.classes)) == (NAMES, NAMES)
    assert any("class names" in line for line in loaded.notes)


@pytest.mark.parametrize(
    ("data", "words"), [(("cat", "dog", "owl"), "rows put in the order"), (("a", "b", "c"), "new head")]
)
def test_training_begins_with_the_rows_of_its_own_classes(data, words, foreign):
    path, net = foreign
    model = build(ARCH, classes=data, input_size=(3, 8, 8))
    said = initialise(model, path)
    assert words in said
    (*_, theirs), (*_, ours) = net.state_dict().values(), model.net.state_dict().values()
    assert torch.equal(ours, theirs[[1, 2, 0]]) == (data[0] == "cat")


def test_training_on_other_classes_than_digits_gets_a_new_head(tmp_path):
    save_checkpoint(tmp_path / "d.pt", build(ARCH, classes=("0", "1", "2"), input_size=(3, 8, 8)), {})
    model = build(ARCH, classes=("cat", "dog", "owl"), input_size=(3, 8, 8))
    assert "new head, since its classes are others (0 ...)" in initialise(model, str(tmp_path / "d.pt"))
