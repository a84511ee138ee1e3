"""Ensembles, groups of classes and trees on the command line."""

from pathlib import Path

import pytest

from robustcls.results.records import Evaluation

ROUND = 'round = ["0", "6", "8", "9"]\nopen.curved = ["2", "3", "5"]\nopen.straight = ["1", "4", "7"]\n'
CHEAP = ("--n", 60, "--device", "cpu", "--eps", 0.1, "--attack", "pgd(steps=5)", "--quiet", "--out", "out.json")


@pytest.fixture
def tree():
    def write(text=ROUND):
        Path("tree.toml").write_text(text, encoding="utf-8")

    return write


def test_an_ensemble_is_a_model(cli, home):
    spec = f"ensemble({home}/pgd/ckpt.pt, {home}/standard/ckpt.pt)"
    found = cli("attack", "--model", spec, *CHEAP)
    assert found.status == 0, found.err
    whole = Evaluation.load("out.json")
    assert whole.model.name == "ensemble(pgd/ckpt.pt, standard/ckpt.pt)"
    assert whole.training is None, "the training of one member does not describe the ensemble"
    assert whole.data.name == "digits(size=8)"
    single = cli("attack", "--model", f"{home}/pgd/ckpt.pt", *CHEAP)
    assert single.status == 0
    assert Evaluation.load("out.json").model.sha256 != whole.model.sha256
    assert Evaluation.load("out.json").model.parameters * 2 == whole.model.parameters


def test_an_attack_on_classes_overestimates_coarse_accuracy(cli, home, tree):
    tree()
    ckpt = f"{home}/pgd/ckpt.pt"
    coarse = f"coarse({ckpt}, tree.toml)"
    found = cli("attack", "--model", coarse, *CHEAP)
    assert found.status == 0, found.err
    adaptive = Evaluation.load("out.json")
    assert adaptive.model.classes == ["round", "open"]
    assert adaptive.model.name == "coarse(pgd/ckpt.pt, tree=tree.toml)"
    assert {one.label for one in adaptive.samples} == {0, 1}
    assert adaptive.data.class_map.outputs == [0, 1, 1, 1, 1, 1, 0, 1, 0, 0]
    assert adaptive.two_classes is not None, "with two groups, measures of two classes are recorded"
    assert cli("attack", "--model", coarse, "--transfer-from", ckpt, *CHEAP).status == 0
    by_fine = Evaluation.load("out.json")
    assert by_fine.clean.correct == adaptive.clean.correct
    assert by_fine.robust.correct > adaptive.robust.correct
    assert cli("attack", "--model", f"coarse({ckpt}, tree.toml, depth=2)", *CHEAP).status == 0
    assert Evaluation.load("out.json").model.classes == ["round", "open/curved", "open/straight"]


def test_the_tree_distance_of_mistakes_is_measured_and_stated(cli, home, tree):
    tree()
    found = cli("attack", "--model", f"{home}/pgd/ckpt.pt", "--tree", "tree.toml", *CHEAP)
    assert found.status == 0, found.err
    one = Evaluation.load("out.json")
    assert one.severity.robust.total == one.robust.total - one.robust.correct > 0
    assert "tree    mistakes clean" in found.out
    assert max(map(len, found.out.splitlines())) <= 80
    assert cli("attack", "--model", f"{home}/pgd/ckpt.pt", *CHEAP).status == 0
    assert Evaluation.load("out.json").severity is None
    assert cli("report", "out.json", "--tree", "tree.toml", "--out", "r.html").status == 0
    assert "Severity of mistakes in the class tree" in Path("r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("coarse({home}/pgd/ckpt.pt, tree.toml)", (), "tree.toml forgets '7'"),
        ("{home}/pgd/ckpt.pt", ("--tree", "tree.toml"), "tree.toml forgets '7'"),
        ("coarse({home}/pgd/ckpt.pt, none.toml)", (), "give a TOML file with coarse(..., tree=...)"),
        ("{home}/pgd/ckpt.pt", ("--tree", "none.toml"), "give a TOML file with --tree"),
        ("ensemble({home}/pgd/ckpt.pt, {home}/pgd/ckpt.pt)", (), "ckpt.pt twice: name different models"),
        ("coarse({home}/pgd/ckpt.pt)", (), "coarse needs tree"),
        ("coarse({home}/pgd/ckpt.pt, tree.toml, depht=2)", (), "did you mean 'depth'"),
        ("ensemble({home}/pgd/ckpt.pt)", (), "needs two models or more"),
        ("ensemble({home}/pgd/ckpt.pt, {home}/two.pt)", (), "model 2 of the ensemble gives 2 outputs, the first 10"),
        ("ensemble({home}/pgd/ckpt.pt, {home}/colour.pt)", (), "model 1 takes images of (1, 8, 8), model 2 of (3, 8, 8)"),
        ("ensemble({home}/pgd/ckpt.pt, none.pt)", (), "none.pt"),
    ],
)  # fmt: skip
def test_what_will_not_do_is_said_in_one_line_before_anything_runs(cli, home, tree, model, options, said):
    tree(ROUND.replace(', "7"', ""))
    found = cli("attack", "--model", model.format(home=home), *options, *CHEAP)
    assert (found.status, len(found.err.splitlines())) == (2, 1)
    assert said in found.err
    assert not Path("out.json").exists()


def test_a_wrapped_model_is_not_exported(cli, home, tree):
    spec = f"ensemble({home}/pgd/ckpt.pt, {home}/standard/ckpt.pt)"
    found = cli("export", "--model", spec, "--out", "artefact")
    assert (found.status, len(found.err.splitlines())) == (2, 1)
    assert "is an ensemble, which is not exported as one file: export its models one by one" in found.err
    tree()
    found = cli("export", "--model", f"coarse({home}/pgd/ckpt.pt, tree.toml)", "--out", "artefact")
    assert (found.status, len(found.err.splitlines())) == (2, 1)
    assert "is a model in a wrapper" in found.err


def test_a_depth_without_groups_is_refused(cli, home, tree):
    tree()
    found = cli("attack", "--model", f"coarse({home}/pgd/ckpt.pt, tree.toml, depth=3)", *CHEAP)
    assert (found.status, len(found.err.splitlines())) == (2, 1)
    assert "tree.toml has groups down to depth 2: give 1 to 2" in found.err
