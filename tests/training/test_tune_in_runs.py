"""Runs that train a part of given weights: what changes, what is saved, and that the result is an ordinary model."""

import dataclasses

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.models.heads import head_of
from robustcls.runtime.low_rank import low_rank_layers
from robustcls.training.checkpoint import read_last, restore_state
from robustcls.training.loop import fit
from robustcls.training.rehearsal import measure_cost, rehearse
from tests.helpers.tiny_run import SMALL, TIMES, CutError, cut_at, same, tiny_run, values_of

OPTIONS = {**SMALL, "epochs": 2, "adv": "n_fgsm", "lr": 0.1}
LORA = "lora(rank=3)"


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiny_images):
    run = tiny_run(tmp_path_factory.mktemp("source"), tiny_images, **{**OPTIONS, "epochs": 1, "seed": 3})
    fit(run)
    return str(run.folder / "ckpt.pt")


def moved(before, after):
    """Return the names of the tensors that have changed in any bit, without the counters of batches."""
    assert before.keys() == after.keys()
    names = {name for name in before if not name.endswith("num_batches_tracked")}
    return {name for name in names if not torch.equal(before[name], after[name])}


def saved(run, name="ckpt.pt"):
    return torch.load(run.folder / name, weights_only=True)


STATISTICS = ("running_mean", "running_var")
NORMS = {f"{place}.{name}" for place in (1, 4) for name in ("weight", "bias", *STATISTICS)}
HEAD = {"8.weight", "8.bias"}
MOVED = {"head": HEAD, "norm_bias": HEAD | NORMS, LORA: HEAD | {"0.weight", "3.weight"}}
MOVED["all"] = MOVED["norm_bias"] | MOVED[LORA]


@pytest.mark.parametrize("average", [{}, {"ema": 0.8}, {"swa": 0.3}], ids=["raw", "ema", "swa"])
@pytest.mark.parametrize("tune", MOVED)
def test_what_is_tuned_moves_and_nothing_else(tune, average, source, make_run):
    run = make_run(**OPTIONS, **average, init=source, tune=tune, weight_decay=0.1)
    fit(run)
    before = torch.load(source, weights_only=True)["state_dict"]
    assert moved(before, saved(run)["state_dict"]) == MOVED[tune]
    assert moved(before, saved(run, "last.pt")["state_dict"]) == MOVED[tune]


def test_tune_head_is_freeze_backbone(source, make_run):
    one, other = (
        make_run("one", **OPTIONS, init=source, tune="head"),
        make_run("other", **OPTIONS, init=source, freeze="backbone"),
    )
    for run in (one, other):
        fit(run)
    assert same(saved(one)["state_dict"], saved(other)["state_dict"])
    assert same(saved(one, "last.pt")["optimizer"], saved(other, "last.pt")["optimizer"])


@pytest.mark.parametrize(
    "options", [{}, {"ema": 0.8, "objective": "trades", "weight_decay": 0.1}], ids=["plain", "trades"]
)
def test_lora_whose_b_stays_at_zero_is_the_head_alone_to_the_bit(options, source, make_run):
    """This is a negative control; a B that is trained gives other weights."""
    runs = {}
    for name, tune in (("head", "head"), ("zero", LORA), ("lora", LORA)):
        runs[name] = make_run(name, **OPTIONS, **options, init=source, tune=tune)
        if name == "zero":
            for layer in low_rank_layers(runs[name].state.model).values():
                layer.parametrizations.weight[0].b.requires_grad_(False)
        fit(runs[name])
    states = {name: saved(run)["state_dict"] for name, run in runs.items()}
    assert same(states["zero"], states["head"])
    assert moved(states["lora"], states["head"]) == MOVED[LORA]
    for one, other in zip(runs["zero"].state.history, runs["head"].state.history, strict=True):
        assert same(dataclasses.asdict(one), dataclasses.asdict(other))


def test_a_merged_checkpoint_gives_the_logits_of_the_run(source, make_run, tmp_path):
    run = make_run(**OPTIONS, init=source, tune=LORA)
    fit(run)
    x, y = run.val.batch(slice(16))
    with torch.no_grad():
        expected = run.state.model.eval()(x)
    for name in ("ckpt.pt", "last.pt"):
        model = robustcls.load(run.folder / name, arch=SMALL["arch"])
        assert [type(m) for m in model.net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))] == [nn.Conv2d] * 2 + [
            nn.Linear
        ]
        if name == "last.pt" or run.state.best_epoch == 2:
            torch.testing.assert_close(model(x), expected)  # rounding depends on the memory format
    assert saved(run).keys() == torch.load(source, weights_only=True).keys()
    assert (robustcls.attack(model, x, y, "linf:0.1", "fgsm") - x).abs().max() <= 0.1 + 1e-6
    further = make_run("further", **OPTIONS, init=str(run.folder / "last.pt"), tune=LORA)
    assert further.notes["init"].endswith("14 of 14 tensors taken, with its head")
    with torch.no_grad():
        torch.testing.assert_close(further.state.model.eval()(x), expected)
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    artefact = robustcls.export(model, tmp_path / "artefact", calibration=x)
    torch.testing.assert_close(robustcls.load(artefact.folder)(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("average", [{}, {"ema": 0.8}, {"swa": 0.3}], ids=["raw", "ema", "swa"])
@pytest.mark.parametrize("tune", [LORA, "norm_bias"])
def test_cut_off_and_resumed_it_ends_bit_equal(tune, average, source, make_run):
    options = {**OPTIONS, **average, "save_every": 2, "tune": tune}
    straight = make_run("straight", **options, init=source)
    rehearse(straight)
    fit(straight)
    run = make_run("cut", **options, init=source)
    with pytest.raises(CutError):
        fit(run, cut_at(1, 3))
    config, content = read_last(run.folder)
    torch.manual_seed(7)
    again = make_run("cut", last=content, **{**dataclasses.asdict(config), "init": "gone.pt"})
    restore_state(again, content)
    fit(again)
    for name in ("ckpt.pt", "last.pt"):
        one, other = saved(straight, name), saved(again, name)
        assert one.keys() == other.keys()
        for key in one.keys() - {"meta"}:
            assert same(one[key], other[key], TIMES), f"{name}: {key}"


@pytest.mark.parametrize("average", [{"ema": 0.5}, {"swa": 0.3}], ids=["ema", "swa"])
def test_the_average_is_of_the_weights_and_not_of_their_factors(average, source, make_run):
    run, weights = make_run(**OPTIONS, **average, init=source, tune=LORA), []
    first = run.state.model.net[0]
    began = first.weight.detach().clone()
    fit(run, lambda run: weights.append(first.weight.detach().clone()))
    if "swa" in average:  # the weights at the end of both epochs
        expected = torch.stack([weights[len(weights) // 2 - 1], weights[-1]]).mean(0)
    else:
        expected = began
        for number, weight in enumerate(weights):
            expected = torch.lerp(expected, weight, 1 - min(0.5, (1 + number) / (10 + number)))
    torch.testing.assert_close(run.state.average.model.net[0].weight.data, expected)
    assert not torch.equal(weights[0], weights[-1])


def test_the_cost_counts_what_is_trained(source, make_run):
    run = make_run(**OPTIONS, init=source, tune=LORA)
    cost = measure_cost(run)
    added = 3 * (16 + 9) + 3 * (32 + 16 * 9)
    assert (cost.trained, cost.parameters) == (added + 128 * 10 + 10, 6138)
    assert str(run.notes["tuned"]) == f"{LORA}: 1,893 parameters are trained, 30.8% of 6,138, in 3 layers: 0, 3, 8"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tune": "head"}, '`tune="head"` leaves most weights unchanged, and these are random: name a checkpoint'),
        ({"tune": LORA, "freeze": "1", "init": "w.pt"}, 'says what is trained: leave out `freeze="1"`'),
        ({"tune": "lorra"}, "unknown tune 'lorra': did you mean 'lora'?"),
        ({"tune": "lora(rang=2)"}, "unknown option of lora 'rang': did you mean 'rank'?"),
    ],
)
def test_what_does_not_go_together_is_refused(options, says, make_run, tmp_path):
    with pytest.raises(InputError) as caught:
        make_run(**OPTIONS | options)
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_network_from_python_has_weights_of_its_own(tmp_path):
    x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 3
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
    before = values_of(net)
    options = {"epochs": 1, "val_attack": "none", "augment": "none", "adv": "none", "eps": 0.1}
    run = robustcls.train(data=(x, y), arch=net, tune="lora(rank=2)", out=tmp_path / "run", **options)
    assert moved(before, run.model.net.state_dict()) == {"0.weight", "3.weight", "3.bias"}
    assert not moved(before, values_of(net))
    assert head_of(run.model.net)[0] == "3"
