"""Runs that begin with pruning: trained, resumed and attacked like any other."""

import dataclasses

import pytest
import torch

import robustcls
from robustcls.core.errors import InputError
from robustcls.models.checkpoint import take_pruned
from robustcls.training.checkpoint import read_last, restore_state
from robustcls.training.loop import fit
from robustcls.training.train import begin
from tests.helpers.tiny_run import SMALL, TIMES, CutError, cut_at, same, tiny_run

pytest.importorskip("torch_pruning")

OPTIONS = {**SMALL, "epochs": 2, "save_every": 2, "adv": "fgsm"}
SPEC = "channels(ratio=0.5, criterion=taylor, multiple=16)"
FULL = "channels(ratio=0.5, criterion='taylor', multiple=16, seed=0)"


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiny_images):
    run = tiny_run(tmp_path_factory.mktemp("source"), tiny_images, **{**OPTIONS, "epochs": 1})
    fit(run)
    return run.folder / "ckpt.pt"


def widths(model):
    return [module.out_channels for module in model.modules() if hasattr(module, "out_channels")]


@pytest.mark.parametrize("average", [{"ema": 0.8}, {"swa": 0.3}], ids=["ema", "swa"])
def test_cut_off_and_resumed_a_pruned_run_ends_bit_equal(average, source, make_run):
    options = {**OPTIONS, **average, "init": str(source), "prune": SPEC}
    straight = make_run("straight", **options)
    assert widths(straight.state.model) == widths(straight.state.average.model) == [8, 16]
    fit(straight)
    run = make_run("cut", **options)
    with pytest.raises(CutError):
        fit(run, cut_at(1, 3))
    config, content = read_last(run.folder)
    torch.manual_seed(7)
    again = make_run("cut", last=content, **{**dataclasses.asdict(config), "init": "gone.pt"})
    restore_state(again, content)
    assert (again.resumed, again.state.epoch, again.state.batch) == (True, 1, 2)
    fit(again)
    for name in ("ckpt.pt", "last.pt"):
        one, other = (torch.load(run.folder / name, weights_only=True) for run in (straight, again))
        assert one["pruned"] == FULL
        assert one.keys() == other.keys()
        for key in one.keys() - {"meta"}:
            assert same(one[key], other[key], TIMES), f"{name}: {key}"
        assert one["meta"]["pruned"] == other["meta"]["pruned"]


def test_the_checkpoint_says_what_was_removed_and_is_a_model_like_any_other(source, make_run, tmp_path):
    run = make_run(**{**OPTIONS, "epochs": 1}, init=str(source), prune=SPEC)
    fit(run)
    content = torch.load(run.folder / "ckpt.pt", weights_only=True)
    full, left = content["meta"]["pruned"]["parameters"]
    assert (full, left) == (
        sum(one.numel() for one in robustcls.load(source, arch=SMALL["arch"]).parameters()),
        sum(one.numel() for one in run.state.model.parameters()),
    )
    assert str(run.notes["pruned"]).startswith(f"{FULL}: {full:,} -> {left:,} parameters (")
    model = robustcls.load(run.folder / "ckpt.pt", arch=SMALL["arch"])
    x, y = run.val.batch(slice(8))
    assert same(model.state_dict(), run.state.eval_model.state_dict())
    torch.testing.assert_close(model(x), run.state.eval_model.eval()(x))  # rounding depends on the memory format
    assert (robustcls.attack(model, x, y, "linf:0.1", "fgsm") - x).abs().max() <= 0.1 + 1e-6
    pytest.importorskip("onnxscript")
    assert robustcls.export(model, tmp_path / "artefact", calibration=x).manifest.pruning == FULL


def test_a_pruned_checkpoint_is_trained_on_or_pruned_further(source, make_run):
    run = make_run("first", **OPTIONS, init=str(source), prune=SPEC)
    fit(run)
    first = str(run.folder / "ckpt.pt")
    assert widths(make_run("on", **OPTIONS, init=first).state.model) == [8, 16]
    further = make_run("further", **OPTIONS, init=first, prune=SPEC)
    assert widths(further.state.model) == [4, 8]
    assert further.state.model.pruned == f"{FULL} + {FULL}"
    assert further.notes["pruned"].parameters[0] == run.notes["pruned"].parameters[0]


def test_what_nobody_trained_is_not_pruned(make_run, tmp_path):
    with pytest.raises(
        InputError, match="`prune` removes the channels that .* need least, and these weights are random"
    ):
        make_run(**OPTIONS, prune=SPEC)
    assert not (tmp_path / "run").exists()


def test_a_module_of_ones_own_is_pruned_and_resumed(tmp_path):
    x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 3
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 3))
    call = {"data": (x, y), "arch": net, "adv": "none"}
    run = robustcls.train(
        **call, prune="channels(multiple=1)", epochs=1, val_attack="none", augment="none", out=tmp_path / "run", eps=0.1
    )
    assert (net[0].out_channels, run.model.net[0].out_channels) == (8, 4)
    with begin(resume=tmp_path / "run", data=(x, y), arch=net) as again:
        assert again.state.finished
        assert widths(again.state.model) == [4]


@pytest.mark.parametrize(
    ("spec", "says"), [("chanels", "did you mean 'channels'"), ("channels(ration=0.5)", "unknown option of channels")]
)
def test_a_typo_is_found_before_anything_else(spec, says, make_run):
    with pytest.raises(InputError, match=says):
        make_run(**OPTIONS, prune=spec)


def test_a_checkpoint_that_is_not_pruned_leaves_the_model_alone(source, make_run):
    model = make_run(**OPTIONS).state.model
    take_pruned(model, torch.load(source, weights_only=True), "f")
    assert widths(model) == [16, 32]
