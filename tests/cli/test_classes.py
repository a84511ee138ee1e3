"""Mapping the classes of the data to the outputs of the model, which may differ in order and number."""

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

import robustcls
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.results.comparison import pair
from robustcls.results.records import Evaluation

COLOURS = {"red": 0, "green": 1, "blue": 2}
CODE = '''
"""Networks whose logit of a colour is how much of it an image has."""
import torch
from torch import nn

class Colours(nn.Module):
    def __init__(self, order, outputs=None):
        super().__init__()
        self.order, self.outputs = list(order), outputs or len(order)
        self.gain = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        found = self.gain * x.mean((2, 3))[:, self.order]
        return torch.cat([found, found.new_full((len(x), self.outputs - found.shape[1]), -1.0)], 1)

class Named(Colours):
    classes = ("green", "blue", "red")

def rgb(): return Colours((0, 1, 2))
def bgr(): return Colours((2, 1, 0))
def named(): return Named((1, 2, 0))
def many(): return Colours((0, 1, 2), 40)
def one(): return Single()
def wrapped(): return Wrapped()
def arch(num_classes, input_size): return Colours((0, 1, 2), num_classes)
def small(num_classes, input_size): return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
def wrong(num_classes, input_size): return nn.Sequential(nn.Flatten(), nn.Linear(192, 1000))

class Single(nn.Module):
    def forward(self, x):
        return (x[:, 0] - x[:, 1]).mean((1, 2))

class Wrapped(nn.Module):
    def forward(self, x):
        return {"features": x, "logits": 5 * x.mean((2, 3))}
'''
QUICK = ("--attack", "noise", "--eps", "1/255", "--device", "cpu")


def draw(root, names, splits=("test", "train")):
    """Write folders of images and return their spec. names: the bright channel of the images in each folder."""
    generator = np.random.default_rng(0)
    for split in splits:
        for name, channel in names.items():
            (root / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = generator.integers(0, 60, (8, 8, 3), dtype=np.uint8)
                pixels[:, :, channel] += 120
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return f"folder:{root}"


@pytest.fixture
def run(cli, tmp_path):
    """Run `attack` on a model and a folder; return the result, and the evaluation if it wrote one."""
    (tmp_path / "colours.py").write_text(CODE, encoding="utf-8")

    def run(model, data, *more):
        result = cli("attack", "--model", model, "--data", data, *QUICK, "--out", "e.json", *more)
        return result, Evaluation.load("e.json") if result.status == 0 else None

    return run


def save(path, classes):
    save_checkpoint(path, build("colours:arch", classes=classes, input_size=(3, 8, 8)), {})
    return path


def test_the_same_classes_in_another_order_are_mapped_by_name_and_kept(run, tmp_path):
    data = draw(tmp_path / "d", COLOURS)  # blue, green, red
    model = save(tmp_path / "m.pt", ["red", "green", "blue"])
    result, found = run(model, data, "--arch", "colours:arch", "--quiet")
    assert result.status == 0, result.err
    assert found.clean.accuracy == 1
    assert found.model.classes == ["red", "green", "blue"]
    assert (found.data.class_map.classes, found.data.class_map.outputs) == (["blue", "green", "red"], [2, 1, 0])
    assert "mapped by name" in found.data.note
    result, found = run("colours:named", data)
    assert (found.clean.accuracy, found.data.class_map.outputs) == (1, [1, 0, 2])
    assert "mapped by name" in result.err


@pytest.mark.parametrize(
    ("model", "names", "words"),
    [
        ("m.pt", {"red": 0, "green": 1, "pink": 2}, "'pink' is none of the model's, which has 'blue' instead"),
        ("m.pt", {"red": 0, "green": 1, "blue": 2, "grey": 0}, "knows 3 classes"),
        ("colours:many", COLOURS, "gives 40 outputs without names, the data has 3 classes"),
        ("colours:rgb", {"red": 0, "green": 1}, "gives 3 outputs without names, the data has 2 classes"),
    ],
)
def test_other_classes_are_refused_before_anything_is_computed(model, names, words, run, tmp_path):
    save(tmp_path / "m.pt", ["red", "green", "blue"])
    model = tmp_path / model if model == "m.pt" else model
    result, _ = run(model, draw(tmp_path / "d", names), "--arch", "colours:arch")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert words in result.err
    assert "--classes FILE" in result.err
    assert not (tmp_path / "here" / "e.json").exists()


def test_two_folders_in_a_larger_model_have_sensitivity_and_roc_auc(run, cli, tmp_path):
    data = draw(tmp_path / "d", {"a sky": 2, "grass": 1})
    (tmp_path / "c.txt").write_text("a sky=2\ngrass=1\n", encoding="utf-8")
    mapped = ("--classes", tmp_path / "c.txt")
    result, found = run("colours:many", data, *mapped, "--positive", "a sky")
    assert result.status == 0, result.err
    two = found.two_classes
    assert (two.positive, two.negative, two.clean.sensitivity.accuracy, two.clean.auc.value) == (2, 1, 1, 1)
    text = " ".join(result.out.split())
    for words in ("Sensitivity (a sky) 100.0%", "ROC-AUC 1.000", "another of the model's 40 outputs is wrong"):
        assert words in text
    (tmp_path / "p.toml").write_text("min_balanced_clean = 0.3\nmin_sensitivity = 0.3\npositive = 'grass'\n", "utf-8")
    gate = cli("gate", "e.json", "--policy", tmp_path / "p.toml")
    assert "met     clean balanced" in gate.out
    assert "met     sensitivity at least 30.0%: grass" in gate.out
    assert run("colours:many", data, *mapped)[1].two_classes.positive == 1  # the default is the second folder
    result, _ = run("colours:many", data, *mapped, "--positive", "red")
    assert (result.status, "'red'" in result.err) == (2, True)


def test_a_file_maps_folders_to_some_of_many_outputs(run, cli, tmp_path):
    data = draw(tmp_path / "d", {"a sky": 2, "grass": 1})
    (tmp_path / "c.txt").write_text("a sky=2\ngrass=1\n", encoding="utf-8")
    result, found = run("colours:many", data, "--classes", tmp_path / "c.txt")
    assert result.status == 0, result.err
    assert (found.clean.accuracy, len(found.model.classes), found.model.classes[2]) == (1, 40, "a sky")
    assert "the other 38 outputs remain possible predictions" in " ".join(result.err.split())
    assert cli("report", "e.json", "--out", "r.html").status == 0
    assert "the other 38 outputs" in (tmp_path / "here" / "r.html").read_text(encoding="utf-8")
    assert cli("gate", "e.json", "--min-robust", "0.5", "--min-clean", "0.5").status in (0, 3)
    parts = (
        "--examples",
        2,
        "--maps-n",
        0,
        "--curves-n",
        0,
        "--minimum-n",
        0,
        "--corruptions-n",
        0,
        "--checks",
        "passive",
    )
    for command in (("explain", "--pictures", 1, "--quality-n", 2, "--out", "x"), ("report", *parts)):
        asked = ("--model", "colours:many", "--data", data, "--classes", tmp_path / "c.txt", "--method", "saliency")
        result = cli(*command, *asked, "--eps", "1/255", "--quiet", "--attack", "fgsm")
        assert result.status == 0, result.err


def test_folders_named_by_numbers_are_outputs(run, tmp_path):
    result, found = run("colours:many", draw(tmp_path / "d", {"0": 0, "2": 2}))
    assert result.status == 0, result.err
    assert (found.clean.accuracy, {s.label for s in found.samples}) == (1, {0, 2})


def test_one_logit_and_a_mapping_are_judged_and_said(run, tmp_path):
    two = draw(tmp_path / "two", {"green": 1, "red": 0})
    result, found = run("colours:one", two)
    assert (result.status, found.clean.accuracy) == (0, 1), result.err
    assert "class 1 of two" in found.model.note
    assert "class 1 of two" in " ".join(result.err.split())
    result, found = run("colours:wrapped", draw(tmp_path / "d", COLOURS), "--classes", listed(tmp_path))
    assert (result.status, found.clean.accuracy) == (0, 1), result.err
    assert "'logits' of a mapping" in found.model.note


def listed(tmp_path):
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    return tmp_path / "names.txt"


def test_a_surrogate_and_a_second_model_have_orders_of_their_own(run, cli, tmp_path):
    data, names = draw(tmp_path / "d", COLOURS), listed(tmp_path)
    strong = ("--attack", "pgd(steps=5)", "--eps", "60/255")
    in_order = ("--classes", names)
    arch = ("--arch", "colours:arch")
    for surrogate, out in (("colours:named", "a.json"), (save(tmp_path / "m.pt", ["red", "green", "blue"]), "b.json")):
        asked = ("--model", "colours:named", "--data", data, "--transfer-from", surrogate, *arch, *strong, "--out", out)
        result = cli("attack", *asked, "--device", "cpu")
        assert result.status == 0, result.err
    a, b = Evaluation.load("a.json"), Evaluation.load("b.json")
    assert a.robust == b.robust
    assert a.robust.correct < a.clean.correct
    result, other = run("colours:rgb", data, *in_order)
    result, first = run("colours:named", data)
    first.save("first.json")
    other.save("other.json")
    assert first.data.sha256 == other.data.sha256
    assert [one.difference for one in pair(first, other)] == [0, 0]
    result = cli("compare", "first.json", "other.json")
    assert result.status == 0, result.err
    assert cli("report", "first.json", "other.json", "--out", "r.html").status == 0
    page = (tmp_path / "here" / "r.html").read_text(encoding="utf-8")
    assert "Paired differences" in page


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("blue,5\ngreen,1\nred,0\n", "'blue' is output 5"),
        ("blue\tx\ngreen\t1\nred\t0\n", "calls 'blue' 'x', which is no class of"),
        ("blue\ngreen\nred\n", "lists 'red' as output 2"),
        ("blue=0\ngreen=1\nred=2\n", "takes 'blue' for output 0"),
    ],
)
def test_a_file_that_contradicts_a_checkpoint_is_refused(text, words, run, tmp_path):
    data = draw(tmp_path / "d", COLOURS)
    model = save(tmp_path / "m.pt", ["red", "green", "blue"])
    (tmp_path / "c.txt").write_text(text, encoding="utf-8")
    asked = ("--arch", "colours:arch", "--classes", tmp_path / "c.txt")
    result, _ = run(model, data, *asked)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert words in result.err


def test_of_several_models_a_file_is_about_those_without_names(run, cli, tmp_path):
    data, names = draw(tmp_path / "d", COLOURS), tmp_path / "c.txt"
    names.write_text("blue\ngreen\nred\n", encoding="utf-8")
    model = save(tmp_path / "m.pt", ["red", "green", "blue"])
    asked = ("--arch", "colours:arch", "--classes", names)
    result, found = run(model, data, *asked, "--transfer-from", "colours:bgr")
    assert (result.status, found.clean.accuracy) == (0, 1), result.err
    assert "c.txt is not used" in found.data.note
    parts = ("--examples", 0, "--maps-n", 0, "--curves-n", 0, "--minimum-n", 0, "--corruptions-n", 0)
    result = cli(
        "report", "--model", model, "--model", "colours:bgr", "--data", data, *asked, *parts, *QUICK,
        "--checks", "passive", "--out", "r.html",
    )  # fmt: skip
    assert result.status == 0, result.err
    assert "c.txt is not used" in " ".join(result.err.split())
    kept = [Evaluation.load(path) for path in tmp_path.rglob("evaluation*.json")]
    assert [one.clean.accuracy for one in kept] == [1, 1]


def test_class_names_in_somebody_elses_file_are_read(run, tmp_path):
    data = draw(tmp_path / "d", COLOURS)
    state = {"net.gain": torch.tensor(5.0)}
    torch.save({"state_dict": state, "hyper_parameters": {"classes": ["red", "green", "blue"]}}, tmp_path / "f.pt")
    result, found = run(tmp_path / "f.pt", data, "--arch", "colours:arch")
    assert (result.status, found.clean.accuracy) == (0, 1), result.err
    assert "its class names are those under 'hyper_parameters.classes'" in " ".join(result.err.split())


def test_a_checkpoint_of_numbered_classes_is_not_judged_on_others(run, tmp_path):
    model = save(tmp_path / "m.pt", ["0", "1", "2"])
    result, _ = run(model, draw(tmp_path / "d", COLOURS), "--arch", "colours:arch")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "'blue' is none of the model's, which has '0' instead" in result.err


def test_a_module_of_ones_own_sees_pixels_unless_asked_otherwise(cli, tmp_path):
    (tmp_path / "colours.py").write_text(CODE, encoding="utf-8")
    data = draw(tmp_path / "d", COLOURS)
    quick = ("--data", data, "--adv", "none", "--epochs", 1, "--batch-size", 4, "--augment", "none", "--device", "cpu")
    trained = cli("train", "--arch", "colours:small", *quick, "--out", "my run")
    assert trained.status == 0, trained.err
    assert "colours:small sees pixels in [0, 1], no normalisation in front" in " ".join(trained.err.split())
    model = robustcls.load("my run/ckpt.pt", arch="colours:small")
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(x), model.net(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(robustcls.InputError, match="asks to run 'colours:small'"):
        robustcls.load("my run/ckpt.pt")
    typed = trained.err.splitlines()[-1]
    assert typed.startswith("next: robustcls attack ")
    words = shlex.split(typed)[2:]
    result = cli(*words, "--attack", "noise", "--out", "e.json")
    assert result.status == 0, result.err
    assert "sees pixels in [0, 1]" in json.loads((tmp_path / "here" / "e.json").read_text())["model"]["note"]
    trained = cli("train", "--arch", "colours:small", *quick, "--mean", "0.5", "--std", "0.25", "--out", "other")
    assert trained.status == 0, trained.err
    model = robustcls.load("other/ckpt.pt", arch="colours:small")
    assert torch.allclose(model(x), model.net((x - 0.5) / 0.25))
    trained = cli("train", "--arch", "colours:small", *quick, "--mean", "data", "--std", "data", "--out", "third")
    assert trained.status == 0, trained.err
    assert 0.05 < robustcls.load("third/ckpt.pt", arch="colours:small").mean.mean() < 0.5


def test_an_architecture_with_other_outputs_than_classes_is_refused(cli, tmp_path):
    (tmp_path / "colours.py").write_text(CODE, encoding="utf-8")
    result = cli(
        "train", "--arch", "colours:wrong", "--data", draw(tmp_path / "d", COLOURS), "--adv", "none", "--out", "r"
    )
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "gives 1000 outputs for 3 classes" in result.err


def test_a_resumed_run_whose_classes_were_renamed_is_refused(cli, tmp_path):
    data = draw(tmp_path / "d", COLOURS)
    quick = ("--adv", "none", "--epochs", 1, "--batch-size", 4, "--augment", "none", "--device", "cpu")
    assert cli("train", "--data", data, "--arch", "vgg11(width=0.05)", *quick, "--out", "r").status == 0
    for split in ("train", "test"):
        (tmp_path / "d" / split / "blue").rename(tmp_path / "d" / split / "azure")
    result = cli("train", "--resume", "r")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "'azure' is where 'blue' was" in result.err
