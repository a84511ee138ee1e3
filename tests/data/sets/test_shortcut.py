"""A planted shortcut, and the intervention that shows whether a model relies on it."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import robustcls
from robustcls.core.errors import InputError
from robustcls.data import recipe
from robustcls.data.sets.shortcut import mark_at
from robustcls.data.spec import check_named_by_file, may_have_trained_on
from robustcls.data.splits import has_test, load_split, load_training_data

BASE = "digits(size=16)"


def spec(strength=0.9, test="same", base=BASE):
    return f"shortcut({base}, strength={strength}, test={test})"


def marked(images, classes=10):
    """Return the class that the colour of each mark encodes, with the palette written out."""
    rows, columns = mark_at(*images.pixels.shape[2:])
    marks = images.pixels[:, :, rows, columns].flatten(2).float()
    assert (marks.amax(2) == marks.amin(2)).all(), "each mark has a single colour"
    if marks.shape[1] == 1:
        return (classes * (1 - marks[:, 0, 0] / 255)).round().long()
    hues = [colorsys.rgb_to_hsv(*(colour / 255).tolist())[0] for colour in marks[:, :, 0]]
    return (classes * torch.tensor(hues)).round().long()


@pytest.mark.parametrize("strength", [0.1, 0.6, 1.0])
def test_marks_are_of_the_own_class_in_the_share_that_was_asked(strength):
    images = load_split(spec(strength), "train")
    found = marked(images)
    share = (found == images.labels).float().mean().item()
    assert abs(share - strength) < 3 * (strength * (1 - strength) / len(images)) ** 0.5 + 1e-9
    wrong = (found - images.labels)[found != images.labels] % 10
    if strength < 1:
        assert wrong.bincount(minlength=10)[1:].min() > 0, "the marks show all other classes"


def test_test_images_as_the_intervention_says():
    plain = load_split(BASE, "test")
    aligned, flipped, absent, same = (
        load_split(spec(0.7, test), "test") for test in ("aligned", "flipped", "absent", "same")
    )
    assert (marked(aligned) == plain.labels).all()
    assert not (marked(flipped) == plain.labels).any()
    assert torch.equal(absent.pixels, plain.pixels)
    assert 0.6 < (marked(same) == plain.labels).float().mean() < 0.8
    rows, columns = mark_at(16, 16)
    for images in (aligned, flipped, same):
        rest = images.pixels.clone()
        rest[:, :, rows, columns] = plain.pixels[:, :, rows, columns]
        assert torch.equal(rest, plain.pixels), "nothing else changes"
    train = [load_split(spec(0.7, test), "train").pixels for test in ("aligned", "absent")]
    assert torch.equal(*train), "the intervention leaves training images alone"
    assert "of the own class in 70% of them" in same.note


def test_an_image_keeps_its_mark_whatever_is_read_beside_it(tmp_path):
    for split, count in (("train", 12), ("test", 8)):
        for label, name in enumerate(("cat", "dog", "owl")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng([label, number]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number:02d}.png")
    folder = spec(0.5, "same", f"folder:{tmp_path}")
    for one in (folder, spec(0.5)):
        every, few = load_split(one, "test"), load_split(one, "test", n=15)
        places = [every.index.tolist().index(place) for place in few.index.tolist()]
        assert len(few) == 15
        assert torch.equal(few.pixels, every.pixels[places])
    colours = load_split(folder, "test")
    assert 0 < (marked(colours, 3) == colours.labels).float().mean() < 1
    train, val = load_training_data(folder)
    assert len(train) + len(val) == 36
    assert has_test(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shortcut", r"made of another data set: name it first, as in shortcut\(digits\)"),
        ("shortcut()", "name it first"),
        ("shortcut(strength=0.5)", "name it first"),
        ("shortcut:digits", "name it first"),
        ("shortcut(digts)", "did you mean 'digits'"),
        ("shortcut(digits, strength=1.5)", "strength=1.5 is not a fraction"),
        ("shortcut(digits, strngth=1)", "did you mean 'strength'"),
        ("shortcut(digits, test=mirrored)", "'mirrored' is not"),
        ("shortcut(digits, 0.5)", "is not a spec"),
        ("shortcut(shortcut(digits, strength=2))", "strength=2 is not a fraction"),
    ],
)
def test_what_is_no_shortcut_is_refused(name, said):
    with pytest.raises(InputError, match=said) as caught:
        load_split(name, "test")
    assert "\n" not in str(caught.value)


def test_it_has_the_recipe_of_what_it_is_made_of_and_is_recognised_as_it():
    assert recipe("shortcut(digits, strength=0.5)") == recipe("digits") != recipe("cifar10")
    assert recipe("shortcut(mylab:data)") == {}
    assert may_have_trained_on("shortcut(digits)", "digits")
    assert not may_have_trained_on("shortcut(digits)", "shortcut(cifar10)")
    with pytest.raises(InputError, match="asks to run shutil:rmtree"):
        check_named_by_file("shortcut(shutil:rmtree, strength=0.5)", "trap.pt")


def accuracies(strength, seed=0):
    """Return the accuracies of a small network, trained on marked digits, on aligned, absent and flipped test images."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    x, y = robustcls.load_data(spec(strength, base="digits(size=8)"), split="train", n="all")
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    found = []
    for test in ("aligned", "absent", "flipped"):
        x, y = robustcls.load_data(spec(strength, test, base="digits(size=8)"), n="all")
        found.append((net(x).argmax(1) == y).float().mean().item())
    return found


def test_a_model_that_takes_the_shortcut_is_shown_by_the_intervention_and_one_at_chance_is_not():
    aligned, _, flipped = accuracies(1.0)
    assert aligned > flipped + 0.05
    at_chance = accuracies(0.1)
    assert max(at_chance) - min(at_chance) < 0.03


def test_its_name_is_a_spec_of_the_same_images():
    images = load_split(spec(0.1234567, "flipped"), "test")
    assert images.name == f"shortcut({BASE}, strength=0.1234567, test=flipped)"
    assert torch.equal(load_split(images.name, "test").pixels, images.pixels)
    assert load_split(spec(0.9), "train").name == f"shortcut({BASE}, strength=0.9)"
