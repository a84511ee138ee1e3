"""The data that TensorBoard reads back."""

import io
import resource
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.training.loop import fit
from tests.helpers.tiny_run import SMALL

CONFIG = {"adv": "pgd(steps=2)", "lr": 0.1, "track": ("tensorboard",), "limit_train": None}


@pytest.fixture
def track(tmp_path):
    """Return a function that makes the tracker of a run that starts or resumes at a step."""
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    return lambda start=0: plugins.load("tracker", "tensorboard")(tmp_path, CONFIG, start)


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def configurations(folder):
    """Return the configurations by step, read by TensorBoard's own loader, because the usual EventAccumulator does not purge
    texts."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload().Tensors("config/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events]


def points(events, name):
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_scalars_image_and_configuration_are_read_back(track, tmp_path):
    tracker = track()
    grid = torch.linspace(0, 1, 3 * 4 * 5).view(3, 4, 5)
    tracker.images(160, "adversarial", grid)
    tracker.scalars(160, {"train/loss": 0.5, "lr": 0.25})
    tracker.scalars(320, {"train/loss": 0.125})
    tracker.close()
    events = read(tmp_path)
    assert points(events, "train/loss") == [(160, 0.5), (320, 0.125)]
    assert points(events, "lr") == [(160, 0.25)]
    (image,) = events.Images("adversarial")
    pixels = pil_to_tensor(Image.open(io.BytesIO(image.encoded_image_string)))
    assert image.step == 160
    torch.testing.assert_close(pixels / 255, grid, atol=1 / 255, rtol=0)
    assert configurations(tmp_path) == [(1, '    adv = "pgd(steps=2)"\n    lr = 0.1\n    track = ["tensorboard"]')]


def test_scalars_are_on_disk_before_the_end(track, tmp_path):
    tracker = track()
    tracker.scalars(160, {"lr": 0.5})
    assert points(read(tmp_path), "lr") == [(160, 0.5)]
    tracker.close()


@pytest.mark.parametrize("start", [160, 200])
def test_resumption_hides_what_came_after_its_start(track, tmp_path, start):
    first = track()
    first.scalars(160, {"lr": 1})
    first.scalars(320, {"lr": 2})
    first.close()
    for _ in range(2):
        again = track(start)
        again.scalars(320, {"lr": 3})
        again.scalars(480, {"lr": 4})
        again.close()
    assert points(read(tmp_path), "lr") == [(160, 1), (320, 3), (480, 4)]
    assert [step for step, _ in configurations(tmp_path)] == [1, start + 1]


def test_nothing_is_written_before_the_first_use(track, tmp_path):
    track().close()
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(InputError, match=r"^.* needs tensorboard: pip install 'robustcls\[tensorboard\]'$"):
        plugins.load("tracker", "tensorboard")(tmp_path, CONFIG, 0)


def test_a_full_disk_is_told_once_and_in_one_line(track, capfd):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    tracker = track()

    def log():
        for step in range(1000):
            tracker.images(step, "noise", torch.rand(3, 64, 64))
            tracker.scalars(step, {"loss": 1.0})

    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InputError, match="cannot write .*tensorboard: File too large: make room"):
            log()
        tracker.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Traceback" not in capfd.readouterr().err


def test_tensorboard_gets_scalars_and_images(make_run):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(**SMALL, track=("tensorboard",), epochs=3, track_images=2, objective="trades", adv="pgd(steps=1)")
    fit(run)
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    for name, field in (("train/loss", "train_loss"), ("val/robust", "val_robust"), ("val/clean", "val_clean")):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        rows = enumerate(run.state.history, start=1)
        assert points == [(160 * number, pytest.approx(getattr(row, field), rel=1e-6)) for number, row in rows]
    assert [event.value for event in events.Scalars("parts/kl")] == pytest.approx(
        [r.parts["kl"] for r in run.state.history]
    )
    (image,) = events.Images("adversarial")  # from the second epoch of three
    assert image.step == 320
    pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)), np.float32) / 255
    assert pixels.shape == (3 * 10 + 2, 8 * 10 + 2, 3)  # clean, adversarial, difference: eight of each, with borders
    clean, attacked = pixels[2:10], pixels[12:20]
    assert 0 < np.abs(clean - attacked).max() <= 0.15 + 1 / 255
