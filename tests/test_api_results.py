"""The result of robustcls.evaluate: its printed form and its examples; and the accepted forms of images."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import robustcls
from robustcls import InputError
from tests.helpers.eval_models import train_linear


@pytest.fixture(scope="module")
def data():
    return robustcls.load_data("digits(size=8)", n=30)


@pytest.fixture(scope="module")
def model(data):
    return train_linear(*data)


@pytest.fixture(scope="module")
def result(model, data):
    return robustcls.evaluate(model, *data, "linf:51/255", attacks=["fgsm", "pgd(steps=5)"], name="mine <b>")


def test_an_evaluation_prints_in_a_few_lines(result, tmp_path):
    text = str(result)
    lines = text.splitlines()
    assert 3 <= len(lines) <= 8
    assert max(map(len, lines)) < 200
    assert lines[0] == "mine <b> on tensors (given, n = 30), linf:51/255"
    low, high = result.robust.ci95
    for found, line in ((result.clean, lines[1]), (result.robust, lines[2])):
        assert f"{found.accuracy:.1%}" in line
        assert f"{found.correct} of 30" in line
    assert f"[{low:.1%}, {high:.1%}]" in lines[2]
    assert "upper bound: fgsm, pgd(steps=5)" in lines[2]
    assert all(f"{attack.name} (broke {attack.broken} of {attack.attacked})" in lines[3] for attack in result.attacks)
    result.save(tmp_path / "evaluation.json")
    assert str(robustcls.Evaluation.load(tmp_path / "evaluation.json")) == text


def test_failed_attacks_and_checks_are_named(model, data):
    def broken(model, x, y, threat):
        raise RuntimeError("no")

    with pytest.warns(UserWarning, match="broken failed"):
        found = robustcls.evaluate(model, *data, "linf:0.1", attacks=[broken])
    assert "broken (failed)" in str(found)
    outside = robustcls.evaluate(model, *data, "linf:0.1", attacks=[lambda model, x, y, threat: (x + 0.5).clamp(0, 1)])
    assert "attempts_outside" in next(check.id for check in outside.checks if check.status == "fail")
    [line] = [line for line in str(outside).splitlines() if line.startswith("  failed")]
    assert set(line.split(maxsplit=1)[1].split(", ")) == {one.id for one in outside.checks if one.status == "fail"}


def test_its_repr_is_a_line_and_its_html_is_escaped(result):
    assert repr(result) == (
        f"<Evaluation of mine <b> on tensors, n = 30, linf:51/255: clean {result.clean.accuracy:.1%}, "
        f"robust {result.robust.accuracy:.1%}>"
    )
    assert "mine &lt;b&gt;" in result._repr_html_()
    assert "<b>" not in result._repr_html_()


def test_examples_are_saved_as_the_command_saves_them(result, tmp_path):
    count = result.examples.save(tmp_path / "examples.npz")
    assert count == int(result.examples.success.sum()) > 0
    with np.load(tmp_path / "examples.npz") as saved:
        assert set(saved) == {"x", "x_adv", "y", "index", "broken_by"}
        success = result.examples.success.numpy()
        for name in ("x", "x_adv", "y", "index"):
            assert np.array_equal(saved[name], getattr(result.examples, name).numpy()[success])
        assert saved["x_adv"].dtype == np.float32
        assert [name for name in result.examples.broken_by if name] == saved["broken_by"].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["examples.npz"]
    with pytest.raises(InputError, match="cannot write .*: name a file with `path`"):
        result.examples.save(tmp_path)


def test_examples_have_a_type(result):
    import ast
    import inspect

    from robustcls.evaluation.examples import Examples
    from robustcls.results import evaluation

    assert isinstance(result.examples, Examples)
    assert 'cast("Examples", None)' in inspect.getsource(evaluation)
    imported = [node for node in ast.walk(ast.parse(inspect.getsource(evaluation))) if isinstance(node, ast.ImportFrom)]
    assert any(node.module == "robustcls.evaluation.examples" for node in imported)


# Accepted forms of images


def test_numpy_arrays_are_taken_as_they_are(model, data):
    images, labels = data
    array, numbers = images.numpy(), labels.numpy()
    plain = robustcls.evaluate(model, images, labels, "linf:0.1", attacks="fgsm")
    for given in (
        array,
        array.astype(np.float64),
        array[:, :, ::-1][:, :, ::-1],
        array.astype(">f4"),
        _read_only(array),
    ):
        found = robustcls.evaluate(model, given, numbers, "linf:0.1", attacks="fgsm")
        assert found.samples == plain.samples
    with pytest.raises(InputError, match="labels are list: .* as a tensor or a NumPy array"):
        robustcls.evaluate(model, array, labels.tolist(), "linf:0.1", attacks="fgsm")
    batches = [(array[:10], numbers[:10]), (array[10:], numbers[10:])]
    assert robustcls.evaluate(model, batches, threat="linf:0.1", attacks="fgsm").samples == plain.samples
    assert torch.equal(
        robustcls.attack(model, array, numbers, "linf:0.1", "fgsm"),
        robustcls.attack(model, images, labels, "linf:0.1", "fgsm"),
    )
    maps = robustcls.explain(model, images, labels, "saliency")
    assert torch.equal(robustcls.explain(model, array, numbers, "saliency"), maps)


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x * 255).astype(np.uint8), "images are torch.uint8: give floats in [0, 1], for instance "
         "images.float() / 255, or array / 255"),
        (lambda x: x * 255, "images lie in [0, 255], not in [0, 1]"),
        (lambda x: x.transpose(0, 2, 3, 1), "the model cannot take images of 8x8x1: they look like N,H,W,C: give N,C,H,W"),
        (lambda x: [Image.fromarray((one[0] * 255).astype(np.uint8)) for one in x], "torch.from_numpy(array)"),
        (lambda x: x.astype(object), "images are an array of object: give one float tensor or NumPy array N,C,H,W"),
        (lambda x: "images.npy", "images are str: give one float tensor"),
    ],
)  # fmt: skip
def test_what_cannot_be_images_is_said_with_the_way_to_pass_them(data, change, message):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10))
    images, labels = change(data[0].numpy()), data[1].numpy()
    for call in (
        lambda: robustcls.evaluate(net, images, labels, "linf:0.1", attacks="fgsm"),
        lambda: robustcls.attack(net, images, labels, "linf:0.1", "fgsm"),
        lambda: robustcls.explain(net, images, labels),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_the_message_says_of_numpy_images_works(model, data):
    images = (data[0].numpy() * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    with pytest.raises(InputError) as caught:
        robustcls.explain(model, "array")
    code = str(caught.value).split("such as ")[1].split(" of uint8")[0]
    made = eval(code, {"torch": torch, "array": images})
    assert robustcls.explain(model, made, method="saliency").shape == (30, 1, 8, 8)


# Defaults of training that are reported


def test_training_says_which_threat_and_augmentation_it_took_for_data_without_a_recipe(tmp_path):
    small = {"arch": nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "epochs": 1, "val_n": 10, "val_attack": "fgsm"}
    images, labels = robustcls.load_data("digits(size=8)", split="train", n=60)

    def said(**options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            robustcls.train(**small, out=tmp_path / str(len(list(tmp_path.iterdir()))), **options)
        caught = [one for one in caught if one.category is UserWarning]
        assert all(one.filename == __file__ for one in caught)
        return [str(one.message) for one in caught]

    [line] = said(data=(images, labels))
    assert line == (
        "this data has no recipe of its own: threat model linf:8/255 and augmentation crop_flip (shifts and mirrors images) "
        "by default; change it with `eps` and `augment`"
    )
    [line] = said(data=(images, labels), eps=0.1)
    assert "threat" not in line
    assert "`augment`" in line
    [line] = said(data=(images, labels), adv="none")
    assert "threat" not in line, "clean training needs no threat model"
    assert said(data=(images, labels), eps=0.1, augment="none") == []
    assert said(data="digits(size=8)", limit_train=60) == [], "digits has a recipe"
    pixels = robustcls.data.images.Images((images * 255).byte(), labels, tuple("0123456789"), "mine", flip=False)
    [line] = said(data=(pixels, pixels), eps=0.1)
    assert "(shifts images)" in line
