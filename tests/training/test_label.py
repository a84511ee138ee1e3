"""Pseudo-labels of a teacher, and what a student learns from them."""

import json

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.core.losses import UNLABELLED
from robustcls.data.pseudo_labels import PseudoLabels
from robustcls.data.splits import load_all, load_left_out
from robustcls.training.label import label_spec
from robustcls.training.label_config import LabelConfig
from tests.helpers.tiny_run import SMALL, TINY, same, values_of

OPTIONS = {**TINY, **SMALL, "limit_train": 100, "adv": "none", "epochs": 12, "batch_size": 16, "val_attack": "none"}


def train(out, **options):
    return robustcls.train(out=out, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Train a teacher on 100 digits and save its labels of the other digits; return the folder."""
    home = tmp_path_factory.mktemp("home")
    train(home / "teacher")
    label_spec(str(home / "teacher" / "ckpt.pt"), home / "labels.npz", LabelConfig(arch=SMALL["arch"], quiet=True))
    return home


def test_labels_are_the_models_own(home):
    made = PseudoLabels.load(home / "labels.npz")
    rest = load_left_out(OPTIONS["data"], limit_train=100)
    model = robustcls.load(home / "teacher" / "ckpt.pt", arch=SMALL["arch"])
    with torch.no_grad():
        probabilities = model(rest.batch()[0]).softmax(1)
    assert torch.equal(made.labels, probabilities.argmax(1))
    assert torch.allclose(made.confidence, probabilities.amax(1), atol=1e-5)
    assert made.classes == tuple(map(str, range(10)))
    assert made.model_sha256 == sha256(home / "teacher" / "ckpt.pt")
    assert (made.labels == rest.labels).float().mean() > 0.5


def test_in_python_the_same_labels_of_the_same_images(home):
    made = PseudoLabels.load(home / "labels.npz")
    rest = load_left_out(OPTIONS["data"], limit_train=100)
    model = robustcls.load(home / "teacher" / "ckpt.pt", arch=SMALL["arch"])
    before = values_of(model.train())
    again = robustcls.label(model, rest.batch()[0])
    assert model.training
    assert same(before, values_of(model))
    assert torch.equal(again.labels, made.labels)
    assert again.images_sha256 == made.images_sha256
    assert robustcls.label(model, rest.batch()[0][:10].numpy()).images_sha256 != made.images_sha256


class Lost(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 3), torch.nan)


def test_a_model_that_gives_no_class():
    with pytest.raises(InputError, match="gives no class for 5 of 5 images"):
        robustcls.label(Lost(), torch.rand(5, 1, 8, 8))
    with pytest.raises(InputError, match="not in \\[0, 1\\]"):
        robustcls.label(Lost(), torch.rand(5, 1, 8, 8) * 255)


def test_pseudo_labels_help_and_permuted_ones_hurt(home):
    """A student learns from the labels of a teacher, and much less from the same labels in a permuted order."""
    made = PseudoLabels.load(home / "labels.npz")
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(0))
    PseudoLabels(made.labels[order], *list(vars(made).values())[1:]).save(home / "permuted.npz")
    x, y = robustcls.load_data(OPTIONS["data"], n="all")
    found = {}
    for name in ("labels", "permuted"):
        options = {"unlabelled": "rest", "pseudo_labels": home / f"{name}.npz", "unlabelled_share": 0.9, "epochs": 3}
        run = train(home / name, **options)
        found[name] = (run.model(x).argmax(1) == y).float().mean().item()
        assert run.history[0].train_robust is None
    assert found["labels"] > 0.6
    assert found["permuted"] < found["labels"] - 0.2


def test_labels_of_other_images_end_before_anything_is_written(home, tmp_path):
    with pytest.raises(InputError, match="the pseudo-labels are of 1031 images of rest of digits"):
        train(tmp_path / "run", unlabelled="rest", pseudo_labels=home / "labels.npz", seed=1)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


@pytest.mark.slow
def test_any_objective_takes_pseudo_labels(home, tmp_path):
    for number, name in enumerate(plugins.names("objective")):
        adv = "none" if name == "standard" else "pgd(steps=1)"
        options = {
            "objective": name,
            "adv": adv,
            "epochs": 1,
            "augment": "none" if name in ("mart", "ibp") else "mixup",
        }
        run = train(tmp_path / str(number), unlabelled="rest", pseudo_labels=home / "labels.npz", **options)
        assert run.history[0].train_loss > 0


def test_a_run_with_pseudo_labels_goes_on(home, tmp_path):
    options = {"unlabelled": "rest", "pseudo_labels": home / "labels.npz", "epochs": 2}
    train(tmp_path / "run", **options)
    again = robustcls.train(resume=tmp_path / "run")
    assert len(again.history) == 2


def test_without_unlabelled_images_a_run_is_what_it_was(tmp_path, monkeypatch):
    """If all images are labelled, the mean over labelled images is the plain mean, and runs end bit-equal."""
    ends = []
    for name in ("now", "before"):
        if name == "before":
            for objective in ("alp", "trades"):
                monkeypatch.setattr(f"robustcls.objectives.{objective}.labelled_mean", lambda losses, y: losses.mean())
        for objective in ("alp", "trades"):
            options = {"objective": objective, "adv": "pgd(steps=1)", "epochs": 2}
            ends.append(values_of(train(tmp_path / f"{name}-{objective[:3]}", **options).model))
    assert same(ends[0], ends[2])
    assert same(ends[1], ends[3])
    assert not same(ends[0], ends[1])


# The label -100 in Python


def test_images_without_a_label_beside_others(tmp_path):
    whole = load_all("digits(size=8)")
    x, y = whole.batch()
    some = y.clone()
    some[torch.arange(len(y)) % 10 != 0] = UNLABELLED
    options = {
        **OPTIONS,
        "data": (x, some),
        "limit_train": None,
        "objective": "trades",
        "adv": "pgd(steps=1)",
        "epochs": 1,
    }
    run = train(tmp_path / "run", **options)
    unlabelled = run.run.mixed.unlabelled
    assert run.config.unlabelled == "python"
    assert len(unlabelled) <= int((some == UNLABELLED).sum())
    assert len(run.run.train) + len(run.run.val) == int((some >= 0).sum())
    assert run.model.classes == tuple(map(str, range(10)))
    assert json.loads((run.folder / "history.jsonl").read_text())["epoch"] == 1
    assert len(robustcls.train(resume=run.folder, data=(x, some)).history) == 1
    with pytest.raises(InputError, match="learns nothing from images without labels"):
        train(tmp_path / "other", **{**options, "objective": "adversarial"})
    with pytest.raises(InputError, match="no image has a label"):
        train(tmp_path / "other", **{**options, "data": (x, torch.full_like(y, UNLABELLED))})
    with pytest.raises(InputError, match="some labels are -100"):
        train(tmp_path / "other", **{**options, "unlabelled": "digits(size=8)"})


def test_rest_of_tensors(tmp_path):
    x, y = load_all("digits(size=8)").batch()
    options = {"data": (x, y), "objective": "trades", "adv": "pgd(steps=1)", "epochs": 1, "unlabelled": "rest"}
    run = train(tmp_path / "run", **options)
    assert len(run.run.mixed) > 1000
    with pytest.raises(InputError, match="is what `limit_train` leaves out"):
        train(tmp_path / "other", **{**options, "limit_train": None})


def test_an_evaluation_refuses_them(home):
    model = robustcls.load(home / "teacher" / "ckpt.pt", arch=SMALL["arch"])
    x, y = robustcls.load_data(OPTIONS["data"], n=10)
    y[3] = UNLABELLED
    with pytest.raises(InputError, match="-100"):
        robustcls.evaluate(model, x, y, "linf:0.1", attacks=["fgsm"])
    with pytest.raises(InputError, match="-100"):
        robustcls.attack(model, x, y, "linf:0.1", "fgsm")
