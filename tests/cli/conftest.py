"""The command line in this process, and small models for it to work on."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from robustcls.cli.main import main
from robustcls.models.checkpoint import build, save_checkpoint
from tests.helpers.evil import Evil
from tests.helpers.judged_by_hand import make_evaluation

CODE = '''
"""Plug-ins of a user's own."""

def interrupt(model, x, y, threat, *, generator=None):
    raise KeyboardInterrupt

def blank(model, x, y, threat, *, generator=None):
    """Misclassifies all: of each image the first flat one that is classified in another way."""
    import torch
    flat = [torch.full_like(x, grey / 10) for grey in range(11)]
    found = x.clone()
    for one in flat:
        wrong = model(one).argmax(1) != y
        found[wrong] = one[wrong]
    return found

calls = 0

def interrupt_second(model, x, y, threat, *, generator=None):
    """As Ctrl-C in the second batch, once."""
    global calls
    calls += 1
    if calls == 2:
        raise KeyboardInterrupt
    return x

batches = 0

def terminate(model, x, y, threat, *, generator=None):
    """As SIGTERM in the second batch, once."""
    global batches
    batches += 1
    if batches == 2:
        import os, signal
        os.kill(os.getpid(), signal.SIGTERM)
    return x

def net():
    from robustcls.models.checkpoint import build
    return build("vgg16(width=0.05)", classes=[str(i) for i in range(10)], input_size=(1, 8, 8))

def rooted():
    """Its gradient has a pole at black pixels."""
    from torch import nn

    class Root(nn.Module):
        def forward(self, x):
            return x.pow(0.5)

    return nn.Sequential(Root(), nn.Flatten(), nn.Linear(64, 10))

def colours():
    """Two classes of colour images, told apart by every value."""
    import torch
    from torch import nn
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))

def boom():
    raise RuntimeError("boom")

def digits(split):
    from robustcls.data.sets.digits import digits
    images = digits(split, size=8)
    return images.pixels, images.labels, images.classes
'''


@dataclass
class Result:
    """The exit status and output of a command."""

    status: int
    out: str
    err: str


def run_main(*arguments) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return Result(caught.value.code, out.getvalue(), err.getvalue())


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Return a function that runs a command in an empty folder; its parent folder holds the user's code."""
    (tmp_path / "my_plugins.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return run_main


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Return a folder with runs, checkpoints, evaluations and image folders. Tests do not write into it."""
    home = tmp_path_factory.mktemp("home")
    tiny = ("--data", "digits(size=8)", "--arch", "vgg16(width=0.1)", "--limit-train", 600, "--augment", "none")
    tiny += ("--epochs", 3, "--batch-size", 32, "--val-n", 40, "--eps", 0.06, "--device", "cpu")
    for name, adv in (("standard", "none"), ("pgd", "pgd(steps=2)")):
        trained = run_main("train", *tiny, "--adv", adv, "--out", home / name)
        assert trained.status == 0, trained.err
    torch.manual_seed(0)
    for name, classes, size in (("two", "ab", (1, 8, 8)), ("colour", "0123456789", (3, 8, 8))):
        model = build("vgg16(width=0.05)", classes=list(classes), input_size=size)
        save_checkpoint(home / f"{name}.pt", model, {})
        torch.save(model.net.state_dict(), home / f"{name}-weights.pt")
    save_checkpoint(home / "trap.pt", model, {"data": "shutil:rmtree"})
    whole = (home / "pgd" / "ckpt.pt").read_bytes()
    (home / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": Evil(home / "trap")}, home / "evil.pt")
    draw_folders(home)
    write_evaluations(home)
    (home / "unknown.toml").write_text("stepz = 3\n", encoding="utf-8")
    (home / "wrong.toml").write_text('seed = "seven"\n', encoding="utf-8")
    (home / "broken.toml").write_text("seed = \n", encoding="utf-8")
    (home / "other.json").write_text('{"schema": "other/1"}', encoding="utf-8")
    return home


def draw_folders(home):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    for folder, classes in (("images", ("cat", "dog")), ("one", ("cat",)), ("corrupt", ("cat", "dog"))):
        for name in classes:
            (home / folder / name).mkdir(parents=True)
            for i in range(10):
                Image.fromarray(pixels[i]).save(home / folder / name / f"{i}.png")
    (home / "corrupt" / "dog" / "3.png").write_bytes(b"\x89PNG and no more")
    (home / "empty").mkdir()
    corner = np.zeros((8, 8), dtype=np.uint8)
    Image.fromarray(corner).save(home / "black.png")
    corner[:5, :5] = 128
    Image.fromarray(corner).save(home / "corner.png")
    Image.fromarray(255 - corner).save(home / "rest.png")
    Image.fromarray(np.full((8, 9), 255, dtype=np.uint8)).save(home / "wide.png")
    Image.fromarray(np.full((8, 8), 300, dtype=np.uint16)).save(home / "deep.png")


def write_evaluations(home):
    make_evaluation(90, 50).save(home / "a.json")
    make_evaluation(85, 60, name="pgd/ckpt.pt").save(home / "b.json")
    make_evaluation(85, 60, attack="fgsm").save(home / "otherattack.json")
    make_evaluation(85, 60, data="cd").save(home / "otherdata.json")
