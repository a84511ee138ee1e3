"""The options of `robustcls train`: the output of --dry-run, refusals, and that each can be set by flag and by file."""

import dataclasses
import tomllib

import pytest
import torch

from robustcls.cli.train import command
from robustcls.core.config import read_toml, resolve, to_toml
from robustcls.core.errors import InputError
from robustcls.data.images import Images
from robustcls.data.splits import load_training_data
from robustcls.training.config import TrainConfig
from robustcls.training.loop import fit
from robustcls.training.recipe import adapt, configure
from robustcls.training.rehearsal import measure_cost
from robustcls.training.run import Run

TINY = (
    "--data", "digits(size=8)", "--arch", "vgg16(width=0.05)", "--limit-train", "96", "--val-n", "20",
    "--val-attack", "fgsm", "--batch-size", "32", "--device", "cpu", "--epochs", "2",
)  # fmt: skip


def colour(split):
    """Return images in colour, of ten classes and 32 x 32 pixels."""
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(40) % 10, tuple("abcdefghij"), "colour", flip=True)


def files(folder):
    return sorted(str(path) for path in folder.rglob("*"))


# --dry-run


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"adv": "none", "quiet": True},
        {"step": "free(replays=2)", "ema": 0.5, "out": "some where/run"},
        {
            "objective": "trades(beta=3.5)",
            "step": "awp",
            "augment": "crop_flip+cutout(size=2)",
            "swa": 0.5,
            "clip": 1.0,
        },
        {
            "adv": "fgsm",
            "norm": "l2",
            "eps": "0.5",
            "optimizer": "adamw",
            "schedule": "piecewise(first=0.4)",
            "lr": 1e-3,
        },
        {
            "track": ("tensorboard",),
            "accumulate": 2,
            "freeze": "3",
            "head": "9-relu-K",
            "save_every": 5,
            "eps": "8/255",
        },
    ],
)
def test_a_dry_run_prints_the_configuration_that_config_takes_back(flags, cli, tmp_path):
    if "track" in flags:
        pytest.importorskip("tensorboard", reason="needs tensorboard")
    tiny = dict(zip((name.strip("-").replace("-", "_") for name in TINY[::2]), TINY[1::2], strict=True))
    numbers = {name: int(tiny[name]) for name in ("limit_train", "val_n", "epochs")}
    arguments = []
    for name, value in flags.items():
        option = f"--{name.replace('_', '-')}"
        arguments += [option] if value is True else [option, *value] if isinstance(value, tuple) else [option, value]
    result = cli("train", *TINY, *arguments, "--dry-run")
    assert (result.status, result.err) == (0, "")
    assert files(tmp_path / "here") == []
    (tmp_path / "printed.toml").write_text(result.out, encoding="utf-8")
    expected = configure({**tiny, **numbers, **flags}, {})
    adapt(expected, {"batch_size", *flags}, images=96, batch_size=32)
    expected.val_every = 1  # set by the rehearsal
    assert configure({}, read_toml(tmp_path / "printed.toml")) == expected
    lines = result.out.splitlines()
    comments = [line for line in lines if line.startswith("#")]
    words = [line.split()[1] for line in comments if not line.startswith("#  ")]
    assert words[-7:] == ["parameters", "forward", "update", "speed", "epoch", "run", "peak"]
    assert max(map(len, comments)) <= 82
    again = cli("train", "--config", tmp_path / "printed.toml", "--dry-run")
    assert again.status == 0
    assert tomllib.loads(again.out) == tomllib.loads(result.out)
    assert files(tmp_path / "here") == []


def forward_by_hand(classes=10):
    """Return the operations (two per multiply-add) of VGG16 at a quarter of its width on 3 x 32 x 32: of all layers, and of
    the first convolution."""
    channels, total, before, first = [16, 32, 64, 128, 128], 0, 3, 0
    for stage, (count, out) in enumerate(zip([2, 2, 3, 3, 3], channels, strict=True)):
        for _ in range(count):
            total += 2 * (32 >> stage) ** 2 * 9 * before * out
            first, before = first or total, out
    return total + 2 * 128 * classes, first


def colour_run(folder, **options):
    spec = f"{__name__}:colour"
    config = TrainConfig(data=spec, arch="vgg16(width=0.25)", batch_size=8, augment="none", val_n=4, **options)
    config.device, config.precision, config.val_attack, config.epochs = "cpu", "fp32", "fgsm", 1
    return Run(config, folder, *load_training_data(spec))


def test_the_operations_are_those_of_the_layers(tmp_path):
    forward, first = forward_by_hand()
    backward = 2 * forward - first  # gradients of weights and activations, but not of images
    for adv, steps in (("none", 0), ("fgsm", 1), ("pgd(steps=3)", 3)):
        cost = measure_cost(colour_run(tmp_path, adv=adv))
        assert cost.forward_flops == forward
        assert cost.update_flops == forward + backward + steps * 2 * forward  # attacks need no gradients of weights
    assert cost.parameters == cost.trained == sum(p.numel() for p in colour_run(tmp_path).state.model.parameters())


def test_the_printed_operations_are_those(cli, tmp_path):
    arguments = ("--data", f"{__name__}:colour", "--arch", "vgg16(width=0.25)", "--batch-size", 8)
    result = cli("train", *arguments, "--adv", "none", "--val-n", 4, "--device", "cpu", "--dry-run")
    assert result.status == 0, result.err
    assert f"# forward         {forward_by_hand()[0] / 1e6:,.1f} MFLOP per image\n" in result.out


def test_to_measure_the_cost_changes_nothing(tmp_path):
    states = []
    for measured in (False, True):
        run = colour_run(tmp_path / f"{measured}", adv="fgsm", ema=0.5)
        if measured:
            measure_cost(run)
        fit(run, lambda _: None, lambda _: None)
        states.append(
            {**run.state.model.state_dict(), **{f"ema.{k}": v for k, v in run.state.average.model.state_dict().items()}}
        )
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_data_smaller_than_a_batch_are_not_counted_as_one(tmp_path):
    run = colour_run(tmp_path)
    run.batch_size, run.state.num_batches = 64, 1  # there are only 30 images
    cost = measure_cost(run)
    assert cost.images_per_second == pytest.approx(len(run.train) / (cost.epoch_seconds - cost.val_seconds), rel=1e-6)


# Refusals

BAD = {
    "objective": (["--objective", "tradez"], "did you mean 'trades'?"),
    "an option of a step": (["--step", "free(replay=2)"], "did you mean 'replays'?"),
    "a chain without its end": (["--augment", "crop_flip+"], "a link is empty"),
    "tracker": (["--track", "foo"], "unknown tracker 'foo'"),
    "two averages": (["--ema", "0.5", "--swa", "0.5"], "give one of them"),
    "more layers than there are": (["--freeze", "99"], "cannot freeze '99'"),
    "a head of no layers": (["--head", "5-foo-K"], "head '5-foo-K' is not a head"),
    "shares the wrong way about": (["--schedule", "piecewise(first=0.9, second=0.1)"], "the smaller first"),
    "parts that are not equal": (["--accumulate", "3"], "cannot be split into 3 equal parts"),
    "optimizer": (["--optimizer", "adam"], "adam"),
    "a swa of all": (["--swa", "1"], "--swa 1.0 is out of range"),
    "negative clip": (["--clip", "-1"], "--clip -1.0 is out of range"),
    "a rate of none for the backbone": (["--backbone-lr", "0"], "backbone"),
    "patience": (["--patience", "-1"], "--patience -1"),
    "on collapse": (["--on-collapse", "pray"], "rollback"),
    "save every none": (["--save-every", "0"], "--save-every 0"),
    "accumulate none": (["--accumulate", "0"], "--accumulate 0"),
    "first weights": (["--init", "none.pt"], "no file none.pt"),
    "first weights of a zoo": (["--init", "imagenet"], "has no ImageNet weights"),
    "a cycle that is none": (["--schedule", "cyclic(cycles=0)"], "give 1 or more"),
    "a warm-up of all": (["--schedule", "cosine(warmup=1.0)"], "from 0 to below 1"),
    "smoothing": (["--objective", "adversarial(label_smoothing=1.0)"], "label_smoothing=1.0"),
    "mix": (["--objective", "adversarial(mix=1.0)"], "below 1"),
    "a tracker twice": (["--track", "wandb", "--track", "wandb"], "given twice"),
    "parts of a short batch": (["--limit-train", "10", "--accumulate", "4"], "--accumulate"),
    "a seed that is too large": (["--seed", "99999999999999999999"], "seed"),
    "a key of the file": (["--config", "optimizer.toml"], "unknown optimizer 'adam'"),
    "two keys of the file": (["--config", "averages.toml"], "give one of them"),
    "a list that is none": (["--config", "track.toml"], "track"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
def test_one_line_and_nothing_written(case, dry, cli, tmp_path):
    here, (arguments, words) = tmp_path / "here", BAD[case]
    for name, text in {
        "optimizer": 'optimizer = "adam"',
        "averages": "ema = 0.5\nswa = 0.5",
        "track": 'track = "x"',
    }.items():
        (tmp_path / f"{name}.toml").write_text(f"{text}\n", encoding="utf-8")
    arguments = [f"{tmp_path}/{one}" if one.endswith(".toml") else one for one in arguments]
    result = cli("train", *TINY, *arguments, *dry)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("robustcls: ")
    assert result.err.count("\n") == 1
    assert "--debug" not in result.err  # --debug is only for bugs
    assert words in result.err
    assert files(here) == []


# Every field, from a file and from flags

VALUES = {
    "data": "cifar10", "data_dir": "some where", "skip_corrupt": True, "norm": "l2", "eps": "0.25", "device": "cpu",
    "precision": "bf16", "batch_size": "48", "seed": 9, "quiet": True, "arch": "resnet18(width=0.5)", "init": "w.pt",
    "prune": "channels(ratio=0.25)",
    "head": "64-silu-dropout0.5-K", "freeze": "backbone", "tune": "lora(rank=2)", "dropout": 0.3,
    "adv": "fgsm", "objective": "trades(beta=2.0)",
    "step": "awp(gamma=0.01)", "epochs": 17, "optimizer": "adamw", "lr": 0.003, "backbone_lr": 0.5, "momentum": 0.8,
    "weight_decay": 0.01, "schedule": "cosine", "clip": 2.0, "accumulate": 4, "augment": "cutmix+cutout", "ema": 0.9,
    "unlabelled": "folder:new", "unlabelled_share": 0.75, "pseudo_labels": "labels.npz", "eps_ramp": "0.2-0.4",
    "train_eps": "0.3",
    "swa": 0.7, "limit_train": 1234, "val_n": 321, "val_every": 3, "val_attack": "pgd(steps=3)", "patience": 6,
    "on_collapse": "rollback", "save_every": 50, "compile": True, "cuda_graphs": True, "deterministic": True,
    "minutes": 2.5, "mean": "0.4,0.5,0.6", "std": "0.2",
    "track": ("tensorboard", "wandb(mode='offline')"), "track_images": 3, "out": "a folder",
}  # fmt: skip


def flags_of(values):
    arguments = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        else:
            arguments += [
                part for one in (value if isinstance(value, tuple) else (value,)) for part in (option, str(one))
            ]
    return arguments


@pytest.mark.parametrize("left_out", [("ema", "minutes", "tune"), ("swa", "minutes", "freeze")])  # others exclude these
def test_every_option_can_be_set_from_a_file_and_from_flags(left_out, tmp_path):
    assert VALUES.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
    values = {name: value for name, value in VALUES.items() if name not in left_out}
    wanted = TrainConfig(**values)
    plain = TrainConfig()
    same = [name for name in values if getattr(wanted, name) == getattr(plain, name)]
    assert same == []  # every value differs from the default
    given = command.make_context("train", flags_of(values)).params
    assert given["resume"] is None
    flags = {name: given[name] for name in VALUES if given[name] not in (None, ())}
    assert configure(flags, {}) == wanted
    (tmp_path / "dashes.toml").write_text(
        "".join(line.replace("_", "-", line.partition("=")[0].count("_")) for line in to_toml(wanted).splitlines(True)),
        encoding="utf-8",
    )
    (tmp_path / "plain.toml").write_text(to_toml(wanted), encoding="utf-8")
    for name in ("plain", "dashes"):
        assert configure({}, read_toml(tmp_path / f"{name}.toml")) == wanted
    assert "backbone-lr" in (tmp_path / "dashes.toml").read_text(encoding="utf-8")
    assert resolve(TrainConfig, dataclasses.asdict(wanted)) == wanted


@pytest.mark.parametrize("name", VALUES)
def test_a_flag_wins_over_the_file(name):
    if name == "minutes":
        file, flags = {"epochs": 5}, {"minutes": 2.5}
    elif name == "epochs":
        file, flags = {"minutes": 5.0}, {"epochs": 17}
        assert configure(flags, file).minutes == 0
    elif name == "swa":
        file, flags = {"swa": 0.2}, {"swa": 0.7}
    elif name in ("unlabelled", "pseudo_labels"):  # each requires the other
        file, flags = {"unlabelled": "rest", "pseudo_labels": "other.npz"}, {name: VALUES[name]}
    else:
        file, flags = {**dataclasses.asdict(TrainConfig()), "objective": None, "eps": "0.1"}, {name: VALUES[name]}
    assert getattr(configure(flags, file), name) == VALUES[name]


def test_minutes_and_epochs_from_one_source_are_refused():
    for flags, file in (({"minutes": 1.0, "epochs": 3}, {}), ({}, {"minutes": 1.0, "epochs": 3})):
        with pytest.raises(InputError, match="`minutes=1` chooses the epochs"):
            configure(flags, file)


def test_a_radius_that_allows_every_image_is_said(cli):
    tiny = ("train", "--data", "digits(size=8)", "--arch", "vgg16(width=0.05)", "--epochs", 1, "--limit-train", 64)
    for eps, said in ((1, True), ("8/255", False)):
        result = cli(*tiny, "--adv", "fgsm", "--eps", eps, "--val-n", 10, "--batch-size", 32, "--dry-run")
        assert result.status == 0, result.err
        assert ("every image may become uniform grey" in " ".join(result.out.replace("#", " ").split())) == said
