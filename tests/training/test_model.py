"""The model of a run: normalised by its training images."""

import numpy as np
import pytest
import torch

from robustcls.training.model import channel_statistics


@pytest.mark.parametrize("count", [5, 4097])
def test_channel_statistics(count):
    pixels = torch.randint(0, 256, (count, 3, 3, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[:, 2] = 7
    mean, std = channel_statistics(pixels)
    values = pixels.numpy() / 255
    assert np.allclose(mean, values.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(std[:2], values.std((0, 2, 3))[:2], rtol=1e-9)
    assert std[2] == pytest.approx(1e-4)  # a constant channel must not be divided by 0


def test_the_model_normalises_by_the_training_images(make_run):
    run = make_run()
    mean, std = channel_statistics(run.train.pixels)
    assert run.state.model.mean.flatten().tolist() == pytest.approx(mean)
    assert run.state.model.std.flatten().tolist() == pytest.approx(std)
