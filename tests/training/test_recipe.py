"""Recipes adapted to few images and --init: batch size and learning rate, unless they are given."""

import pytest
import torch

import robustcls
from robustcls.core.errors import InputError
from robustcls.training.config import TrainConfig
from robustcls.training.loop import fit
from robustcls.training.recipe import adapt, configure, cut
from tests.helpers.tiny_run import tiny_net

FOLDER = {"data": "folder:pets", "lr": 0.1, "batch_size": 128}  # values of its recipe


def adapted(images, given=(), processes=1, **options):
    config = TrainConfig(**{**FOLDER, **options})
    base = config.batch_size if isinstance(config.batch_size, int) else 128
    said = adapt(config, given, images, base, processes=processes)
    return config.batch_size, config.lr, said


@pytest.mark.parametrize(
    ("images", "options", "batch", "rate"),
    [
        (50_000, {}, 128, 0.1),  # the recipe unchanged
        (1280, {}, 128, 0.1),
        (1279, {}, 32, 0.025),
        (324, {}, 16, 0.0125),
        (40, {}, 8, 0.00625),
        (324, {"init": "w.pt"}, 16, 0.00125),
        (50_000, {"init": "w.pt"}, 128, 0.01),
        (324, {"init": "imagenet", "freeze": "backbone"}, 16, 0.0125),  # only a new head is trained
        (324, {"init": "w.pt", "freeze": "3"}, 16, 0.00125),
        (50_000, {"optimizer": "adamw"}, 128, 0.001),
        (324, {"optimizer": "adamw", "init": "w.pt"}, 16, 1.25e-5),
        (1131, {"data": "digits", "batch_size": 64}, 64, 0.1),  # 17 updates per epoch
    ],
)
def test_batch_and_rate(images, options, batch, rate):
    found_batch, found_rate, said = adapted(images, **options)
    assert (found_batch, found_rate) == (batch, pytest.approx(rate))
    changed = (batch, rate) != (options.get("batch_size", 128), 0.1)
    assert bool(said) == changed
    assert not changed or f"{images} images" in said
    assert said.startswith("fine-tuning on ") == ("init" in options)


def test_what_is_given_is_taken_as_it_is():
    assert adapted(324, {"lr", "batch_size"}, init="w.pt") == (128, 0.1, "")
    batch, rate, said = adapted(324, {"lr"}, lr=0.3)
    assert (batch, rate) == (16, 0.3)
    assert "lr" not in said
    assert adapted(324, {"batch_size"}, batch_size=32)[:2] == (32, 0.025)  # the rate is scaled with the batch size
    assert adapted(50_000, {"batch_size"}, batch_size=512)[:2] == (512, 0.1)  # but is never raised


def test_it_says_how_the_rate_came_about():
    assert adapted(324, init="w.pt")[2] == (
        "fine-tuning on 324 images: batch 16, for 20 updates an epoch; lr 0.00125 = 0.1 x 16/128 (batch) x 0.1 (--init)"
    )


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("images", [2, 40, 100, 324, 1000])
def test_a_cut_batch_has_equal_parts_of_two_images(images, parts):
    batch = cut(images, parts)
    assert batch % parts == 0
    assert batch // parts >= 2


def test_it_is_cut_for_parts_and_processes():
    assert adapted(324, accumulate=3)[0] == 15
    assert adapted(324, accumulate=2, processes=8)[0] == 32
    assert adapted(324, accumulate=128)[0] == 128  # no smaller batch has 128 parts


def test_auto_is_a_batch_like_others():
    config = TrainConfig(data="my:images", batch_size=None)
    assert adapt(config, (), 50_000, 4) == "50000 images: lr 0.00313 = 0.1 x 4/128 (batch)"
    assert config.batch_size is None


def test_rollback_needs_robust_accuracy():
    with pytest.raises(InputError, match='leave out `val_attack="none"`'):
        TrainConfig(val_attack="none", on_collapse="rollback")


OF_RECIPE = ("arch", "adv", "train_eps", "eps_ramp", "optimizer", "lr", "augment")
TUNED = ("resnet7(width=1.75, activation='silu')", "n_fgsm", "12/255", "0.15-0.3", "muon", 0.2, "crop_flip(pad=1)")
PLAIN = ("vgg16", "pgd(steps=7)", None, None, "sgd", 0.1, "crop_flip")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, TUNED),
        ({"minutes": 15.0, "seed": 3, "lr": 0.05, "augment": "none"}, (*TUNED[:-2], 0.05, "none")),
        ({"arch": "vgg16"}, PLAIN),
        ({"optimizer": "sgd"}, PLAIN),
        ({"eps": "4/255"}, PLAIN),
        ({"adv": "pgd(steps=7)"}, PLAIN),
        ({"adv": "none"}, ("vgg16", "none", *PLAIN[2:])),
        ({"objective": "trades"}, PLAIN),
        ({"norm": "l2", "eps": "0.5"}, PLAIN),
    ],
)
@pytest.mark.parametrize("data", ["cifar10", "cifar100", "shortcut(cifar10, strength=0.5)"])
def test_a_tuned_recipe_is_used_as_a_whole_or_not_at_all(data, options, expected):
    for layers in (({"data": data} | options, None), ({"data": data}, options), (options, {"data": data})):
        config = configure(*layers)
        assert tuple(getattr(config, name) for name in OF_RECIPE) == expected
    again = {key: value for key, value in vars(config).items() if value is not None and key != "minutes"}
    config.minutes = 0.0
    assert vars(configure({}, again)) == vars(config), "a written configuration makes the same run"


def test_an_architecture_from_python_is_a_choice_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr("robustcls.training.recipe.tuned_recipe", lambda _: {"lr": 0.07})
    assert configure({"data": "digits"}).lr == 0.07
    options = {"epochs": 1, "limit_train": 64, "batch_size": 64, "val_n": 8, "val_attack": "none"}
    for number, arch in enumerate((tiny_net, tiny_net(10, (1, 8, 8)))):
        made = robustcls.train(data="digits(size=8)", arch=arch, **options, out=tmp_path / str(number))
        assert made.config.lr == 0.1


@pytest.fixture
def trained(make_run):
    """Return a checkpoint of a narrow network, trained on digits at another radius than that of the recipe."""
    run = make_run(
        arch="vgg11(width=0.0625)", data="digits(size=32)", eps="0.1", epochs=1, adv="fgsm", val_attack="none"
    )
    fit(run)
    return str(run.folder / "ckpt.pt")


def test_a_checkpoint_to_train_on_brings_its_architecture(trained):
    config = configure({"init": trained, "data": "fashion_mnist"})
    assert (config.arch, config.data) == ("vgg11(width=0.0625)", "fashion_mnist")
    assert configure({"init": trained, "arch": "vgg16"}).arch == "vgg16"
    assert configure({"init": trained}).eps != "0.1"


def test_a_checkpoint_to_be_pruned_brings_its_data_and_radius_too(trained):
    config = configure({"init": trained, "prune": "channels"})
    assert (config.arch, config.data, config.norm, config.eps) == (
        "vgg11(width=0.0625)",
        "digits(size=32)",
        "linf",
        "0.1",
    )
    other = configure({"init": trained, "prune": "channels", "data": "cifar10", "eps": "8/255"})
    assert (other.data, other.eps) == ("cifar10", "8/255")


def test_no_checkpoint_chooses_code(trained, tmp_path):
    content = torch.load(trained, weights_only=True)
    torch.save(content | {"arch": "os:system"}, tmp_path / "evil.pt")
    assert configure({"init": str(tmp_path / "evil.pt"), "prune": "channels"}).arch == "vgg16"
    content["meta"]["config"]["data"] = "os:system"
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="os:system"):
        configure({"init": str(tmp_path / "evil.pt"), "prune": "channels"})


@pytest.mark.parametrize(
    ("options", "share"),
    [({}, 0.1), ({"freeze": "backbone"}, 1), ({"tune": "head"}, 1), ({"tune": "norm_bias"}, 1), ({"tune": "lora"}, 1)],
)
def test_the_rate_is_cut_where_all_weights_are_trained_already(options, share):
    config = TrainConfig(data="digits", lr=0.2, init="w.pt", **options)
    adapt(config, {"batch_size"}, 5000, 256)
    assert config.lr == pytest.approx(0.2 * share)
