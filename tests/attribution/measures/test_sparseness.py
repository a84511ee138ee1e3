"""Sparseness in closed form."""

import math

import numpy as np
import torch

from robustcls.attribution.measures.similarity import gini, shuffled
from tests.helpers.seeds import seeded


def test_gini_in_closed_form() -> None:
    one_hot = torch.zeros(3, 4)
    one_hot[1, 2] = -2
    ramp = torch.arange(1.0, 13).view(3, 4)
    maps = torch.stack([one_hot, torch.full((3, 4), -0.1), torch.zeros(3, 4), ramp, torch.full((3, 4), torch.nan)])
    values = gini(maps)
    assert values.dtype == torch.float64
    # A ramp 1..n: the mean absolute difference (n^2 - 1) / 3n over twice the mean (n + 1) / 2.
    expected = [1 - 1 / 12, 0, math.nan, (12 - 1) / (3 * 12), math.nan]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
    assert (values[[0, 1, 3]] >= 0).all()


def test_gini_is_the_mean_absolute_difference() -> None:
    maps = torch.randn(3, 5, 6, generator=seeded(4))
    magnitude = maps.double().abs().flatten(1)
    differences = (magnitude[:, :, None] - magnitude[:, None]).abs().mean((1, 2))
    torch.testing.assert_close(gini(maps), differences / (2 * magnitude.mean(1)), rtol=0, atol=1e-12)
    torch.testing.assert_close(gini(shuffled(maps, 0)), gini(maps), rtol=0, atol=1e-12)
