"""The data that a run sends to its trackers."""

import dataclasses
import runpy
import sys
from types import SimpleNamespace

import pytest
import torch

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.results.records import Epoch
from robustcls.training import tracking
from robustcls.training.tracking import Tracking, numbers, pairs

ROW = Epoch(
    epoch=3,
    lr=0.1,
    train_loss=1.5,
    train_clean=0.75,
    train_robust=None,
    val_clean=0.5,
    val_robust=0.25,
    val_fgsm=0.0,
    seconds=2.0,
    images_per_second=80.0,
)
NUMBERS = {
    "epoch": 3,
    "lr": 0.1,
    "train/loss": 1.5,
    "train/clean": 0.75,
    "val/clean": 0.5,
    "val/robust": 0.25,
    "val/fgsm": 0.0,
    "seconds": 2.0,
    "images_per_second": 80.0,
}


class Memory:
    """A tracker that records what it receives."""

    def __init__(self, folder, config, start):
        self.made, self.told = (folder, config, start), []

    def scalars(self, *said):
        self.told.append(said)

    images = scalars

    def close(self):
        self.told.append("close")


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """Return the tracking with two recording trackers, given by dotted names."""
    monkeypatch.setitem(sys.modules, "memories", SimpleNamespace(one=Memory, two=Memory))
    return Tracking(["memories:one", "memories:two"], tmp_path, {"lr": 0.1}, start=7, every=2)


def test_numbers_are_named_by_split():
    assert numbers(ROW) == NUMBERS


def test_a_new_numeric_field_needs_no_edit():
    fields = [("val_aa", float, 0.125), ("note", str, ""), ("best", bool, True), ("terms", dict, None)]
    wider = dataclasses.make_dataclass("Wider", fields, bases=(Epoch,))
    row = wider(**dataclasses.asdict(ROW), terms={"kl": 0.5, "how": "mean"})
    assert numbers(row) == NUMBERS | {"val/aa": 0.125, "terms/kl": 0.5}


def test_every_tracker_is_told(tracked, tmp_path):
    x = torch.zeros(1, 1, 2, 2)
    tracked.images(480, x, x)
    tracked.epoch(ROW, 480)
    tracked.close()
    assert len(tracked.trackers) == 2
    for tracker in tracked.trackers:
        (step, name, grid), scalars, end = tracker.told
        assert tracker.made == (tmp_path, {"lr": 0.1}, 7)
        assert (step, name, grid.shape[0]) == (480, "adversarial", 3)
        assert scalars == (480, NUMBERS)
        assert end == "close"


def test_images_are_wanted_every_so_many_epochs(tracked):
    assert [epoch for epoch in range(1, 6) if tracked.wants_images(epoch)] == [2, 4]


def test_without_trackers_nothing_happens(tmp_path):
    none = Tracking([], tmp_path / "run", {}, start=0)
    assert not none.wants_images(1)
    none.images(1, None, None)  # the arguments are not used
    none.epoch(ROW, 1)
    none.close()
    assert not list(tmp_path.iterdir())


def test_importing_tracking_imports_no_tracker(monkeypatch):
    for name in ("wandb", "tensorboard", "torch.utils.tensorboard", "torchvision.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    runpy.run_path(tracking.__file__)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["tensorbored"], "unknown tracker 'tensorbored': did you mean 'tensorboard'"),
        (["wandb(projekt='p')"], "did you mean 'project'"),
        (["tensorboard", "tensorboard()"], "`track=tensorboard` is given twice: give it once"),
    ],
)
def test_a_wrong_spec_is_refused_before_anything_is_written(specs, message, tmp_path):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        Tracking(specs, tmp_path, {}, start=0)
    assert not list(tmp_path.iterdir())


def test_the_trackers_are_plug_ins():
    assert plugins.names("tracker") == ["tensorboard", "wandb"]


# The picture: rows of 4x5 images, 2 pixels apart

TOP, HEIGHT, WIDTH = 2, 6, 7  # start of the first image; distance between rows, and columns


def cell(grid, row, column):
    top, left = TOP + row * HEIGHT, TOP + column * WIDTH
    return grid[:, top : top + 4, left : left + 5]


def test_clean_adversarial_and_difference_are_rows_of_one_grid():
    x = torch.rand(3, 3, 4, 5)
    x_adv = x.clone()
    x_adv[0, 0, 1, 2] += 0.02  # the largest change of the first image
    x_adv[0, 1, 0, 0] -= 0.01
    x_adv[2, 2, 3, 4] -= 0.03
    grid = pairs(x, x_adv)
    assert grid.shape == (3, TOP + 3 * HEIGHT, TOP + 3 * WIDTH)
    for column in range(3):
        assert cell(grid, 0, column).equal(x[column])
        assert cell(grid, 1, column).equal(x_adv[column])
    first, same, last = (cell(grid, 2, column) for column in range(3))
    want = torch.full((3, 4, 5), 0.5)
    assert same.equal(want)
    want[0, 1, 2], want[1, 0, 0] = 1.0, 0.25
    torch.testing.assert_close(first, want, atol=1e-5, rtol=0)
    assert last[2, 3, 4] == 0
    assert last.flatten()[:-1].eq(0.5).all()


def test_grey_images_get_three_channels_and_eight_columns_are_the_most():
    x, x_adv = torch.rand(2, 20, 1, 4, 5).double().requires_grad_()
    grid = pairs(x, x_adv)
    assert grid.shape == (3, TOP + 3 * HEIGHT, TOP + 8 * WIDTH)
    assert not grid.requires_grad
    torch.testing.assert_close(cell(grid, 1, 7), x_adv[7].detach().float().expand(3, 4, 5))
    assert grid.min() >= 0
    assert grid.max() <= 1
