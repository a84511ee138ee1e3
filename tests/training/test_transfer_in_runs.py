"""Runs that start from given weights: what is loaded, what is frozen, and the learning rate of the rest."""

import dataclasses

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.data.splits import load_training_data
from robustcls.models.checkpoint import build
from robustcls.models.heads import head_of
from robustcls.training.checkpoint import read_last, restore_state
from robustcls.training.config import TrainConfig
from robustcls.training.loop import fit
from robustcls.training.rehearsal import rehearse
from robustcls.training.run import Run
from tests.helpers.tiny_run import TINY, CutError, cut_at, values_of

PLAIN = {"augment": "none", "epochs": 1}


def moved(before, model):
    """Return the names of parameters and buffers that have changed in any bit."""
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def parts_of(model):
    """Return the names of the tensors of the head, and those of all others but the normalisation."""
    name, _ = head_of(model.net, len(model.classes))
    head = {key for key in model.state_dict() if key.startswith(f"net.{name}.")}
    return head, {key for key in model.state_dict() if key.startswith("net.")} - head


@pytest.fixture
def source(make_run):
    """Return a checkpoint of a run of one epoch."""
    run = make_run("source", **PLAIN, adv="none", seed=3)
    fit(run)
    return run.folder / "ckpt.pt"


def test_a_run_begins_where_a_checkpoint_ended(source, make_run):
    run, taken = make_run(**PLAIN, init=str(source)), robustcls.load(source)
    assert not moved(values_of(taken), run.state.model)
    assert run.notes["init"] == f"{source}: 80 of 80 tensors taken, with its head"
    rehearse(run)
    assert not moved(values_of(taken), run.state.model)
    x = run.val.batch()[0][:8]
    with torch.no_grad():
        assert torch.allclose(
            run.state.twins[run.state.model](x), taken(x), atol=1e-5
        )  # attacks use these weights from the first batch on
    fresh = make_run("fresh", **PLAIN)
    assert moved(values_of(taken), fresh.state.model)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"step": "awp(gamma=0.05, warmup=0.0)"},
        {"step": "free(replays=2)"},
        {"ema": 0.5, "optimizer": "adamw", "accumulate": 2, "clip": 1.0},
        {"objective": "trades", "adv": "pgd(steps=1)"},
        {"swa": 0.5, "epochs": 2},
    ],
    ids=["once", "awp", "free", "ema and all", "trades", "swa"],
)
def test_a_frozen_backbone_stays_as_it_was_and_the_head_learns(options, source, make_run):
    run = make_run(**PLAIN | {"init": str(source), "freeze": "backbone", "weight_decay": 0.1, "lr": 0.05} | options)
    before = values_of(run.state.model)
    head, backbone = parts_of(run.state.model)
    assert len(head) == 2
    assert sum("running_" in key for key in backbone) == 26
    fit(run)
    assert moved(before, run.state.model) == head
    assert moved(before, run.state.eval_model) == head  # also in the average
    assert moved(before, robustcls.load(run.folder / "ckpt.pt")) == head


def test_the_first_layers_alone_stay(make_run):
    run = make_run(**PLAIN, freeze="4")  # two convolutions and two BatchNorms
    before = values_of(run.state.model)
    fit(run)
    still = before.keys() - moved(before, run.state.model) - {"mean", "std"}
    modules = [name for name, m in run.state.model.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))][:4]
    assert {key.rpartition(".")[0] for key in still} == set(modules)


def test_a_resumed_run_keeps_its_backbone_frozen(source, make_run):
    options = {**PLAIN, "init": str(source), "freeze": "backbone", "save_every": 2, "epochs": 2}
    straight = make_run("straight", **options)
    fit(straight)

    run = make_run("cut", **options)
    with pytest.raises(CutError):
        fit(run, cut_at(1, 3))
    config, content = read_last(run.folder)
    again = make_run("cut", **dataclasses.asdict(config))
    restore_state(again, content)
    fit(again)
    assert not moved(values_of(straight.state.model), again.state.model)
    assert moved(values_of(robustcls.load(source)), again.state.model) == parts_of(again.state.model)[0]


def test_a_resumed_run_needs_the_first_weights_no_more(source, make_run):
    """The run's own last.pt holds the weights, and the normalisation that came with them."""
    run = make_run(**PLAIN, init=str(source))
    run.state.model.mean.fill_(0.25)  # a value that a checkpoint may have
    fit(run)
    source.unlink()
    config, content = read_last(run.folder)
    again = make_run(last=content, **dataclasses.asdict(config))
    restore_state(again, content)
    assert not moved(values_of(run.state.model), again.state.model)


def test_a_head_of_several_layers_survives_the_checkpoint(source, make_run):
    run = make_run(**PLAIN, init=str(source), head="512-relu-K", freeze="backbone")
    assert run.notes["init"].endswith("78 of 82 tensors taken, new head")
    before, (head, _) = values_of(run.state.model), parts_of(run.state.model)
    assert {before[key].shape for key in head} == {(512, 26), (512,), (10, 512), (10,)}
    fit(run)
    assert moved(before, run.state.model) == head
    loaded = robustcls.load(run.folder / "ckpt.pt")
    assert not moved(values_of(run.state.model), loaded)
    x = run.val.batch()[0]
    with torch.no_grad():
        assert torch.allclose(loaded(x), run.state.model.eval()(x), atol=1e-6)
    next_run = make_run("next", **PLAIN, init=str(run.folder / "ckpt.pt"), head="512-relu-K")
    assert next_run.notes["init"].endswith("82 of 82 tensors taken, with its head")


def test_backbone_lr_scales_what_the_optimizer_gets(make_run):
    run = make_run(**PLAIN, backbone_lr=0.25, lr=0.4, schedule="one_cycle(warmup=0.5)", adv="none")
    head = {id(p) for p in head_of(run.state.model.net, 10)[1].parameters()}
    rates = []

    def look(run):
        found = {p: group["lr"] for group in run.state.optimizer.param_groups for p in group["params"]}
        assert len(found) == len(list(run.state.model.parameters()))
        rates.append([{rate for p, rate in found.items() if (id(p) in head) == is_head} for is_head in (True, False)])

    fit(run, look)
    peaks = [0.4 * share for share in (0.2, 0.6, 1.0, 0.6, 0.2)]
    assert all(len(found) == 1 for pair in rates for found in pair)
    assert [max(of_head) for of_head, _ in rates] == pytest.approx(peaks)
    assert [max(of_backbone) for _, of_backbone in rates] == pytest.approx([peak / 4 for peak in peaks])
    assert run.state.history[0].lr == pytest.approx(peaks[-1])  # the rate of --lr, not that of the backbone


def test_backbone_lr_scales_the_update_of_the_backbone(make_run):
    updates = []
    for share in (1.0, 0.25):
        run = make_run(f"{share}", **PLAIN, backbone_lr=share, schedule="constant", weight_decay=0.0, adv="none")
        before = values_of(run.state.model)
        run.state.train_mode()
        x, y = next(iter(run.batches()))
        run.state.step(run.state, x, y)
        updates.append({name: p.detach() - before[name] for name, p in run.state.model.named_parameters()})
    head, _ = parts_of(run.state.model)
    for name, update in updates[0].items():
        scale = 1.0 if name in head else 0.25
        assert torch.allclose(updates[1][name], scale * update, atol=1e-6), name
    assert max(update.abs().max() for update in updates[0].values()) > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arch": "vgg16(width=0.1)"}, "is of another architecture than vgg16(width=0.1)"),
        ({"arch": "resnet18(width=0.125)"}, "is of another architecture"),
        ({"init": "nowhere.pt"}, "no file nowhere.pt"),
        ({"init": "imagenet"}, "has no ImageNet weights"),
        ({"freeze": "99"}, "cannot freeze '99': give none, backbone or a number of layers, 26 at most"),
        ({"head": "512-relu"}, "head '512-relu' is not a head"),
        ({"backbone_lr": 0.0}, "backbone"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(options, words, source, make_run):
    with pytest.raises(InputError) as caught:
        make_run(**PLAIN | {"init": str(source)} | options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (source.parents[1] / "run").exists()


@pytest.mark.parametrize("arch", ["torchvision/resnet18", "torchvision/squeezenet1_1"])
def test_a_network_of_torchvisions_trains_an_epoch(arch, tmp_path):
    options = {"data": "digits", "arch": arch, "limit_train": 32, "batch_size": 16, "val_n": 8, "adv": "fgsm"}
    options |= {"val_attack": "fgsm", "freeze": "backbone", "backbone_lr": 0.1, "epochs": 1}
    options["init"] = str(tmp_path / "w.pt")
    classes = [str(digit) for digit in range(7)]
    theirs = build(arch, classes=classes, input_size=(1, 32, 32))
    torch.save(theirs.net.state_dict(), tmp_path / "w.pt")
    run = Run(TrainConfig(**TINY | options), tmp_path / "run", *load_training_data("digits", limit_train=32))
    assert run.notes["init"].endswith("new head")
    before, (head, backbone) = values_of(run.state.model), parts_of(run.state.model)
    assert not [key for key in backbone if not torch.equal(before[key], theirs.state_dict()[key])]
    rehearse(run)
    fit(run)
    assert moved(before, run.state.model) == head
    assert run.state.history[0].train_loss < 20
    assert not moved(values_of(run.state.model), robustcls.load(run.folder / "ckpt.pt"))
