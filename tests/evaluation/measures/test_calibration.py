"""Confidence against accuracy, by hand and by a second implementation."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.measures.calibration.measure import measure as measure_calibration
from robustcls.evaluation.measures.calibration.measure import reliability
from tests.helpers.eval_models import Evaluated, Masked, evaluated, make_batch, make_net


def judged_by(model: nn.Module) -> Evaluated:
    x, y = make_batch()
    return evaluated(model, x, y, ThreatModel("linf", 0.02), ["pgd(steps=3)"], precision="fp32", batch_size=16)


def logits_of(confidence: list[float]) -> torch.Tensor:
    """Return logits of two classes, of which the first has this probability."""
    chance = torch.tensor(confidence, dtype=torch.float64)
    return torch.stack([chance.log(), (1 - chance).log()], 1)


def ece_by_numpy(logits: np.ndarray, y: np.ndarray, bins: int) -> float:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (odds / odds.sum(1, keepdims=True)).max(1)
    right = logits.argmax(1) == y
    total = 0.0
    for low in range(bins):
        inside = (confidence > low / bins) & (confidence <= (low + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_a_case_by_hand():
    """At 0.9 three of four are right, at 0.6 one of two, so the calibration error is (4 * 0.15 + 2 * 0.1) / 6."""
    found = reliability(logits_of([0.9, 0.9, 0.9, 0.9, 0.6, 0.6]), torch.tensor([0, 0, 0, 1, 0, 1]), bins=10)
    assert found.ece == pytest.approx(0.8 / 6)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.confidence == pytest.approx(4.8 / 6)
    filled = [(round(bin.low, 9), round(bin.high, 9), bin.n) for bin in found.bins if bin.n]
    assert sum(n for _, _, n in filled) == 6
    assert filled[-1][2] == 4
    assert found.when_right.n == 4
    assert found.when_wrong.median == pytest.approx(0.75)
    assert found.bins[0].accuracy is None
    assert found.bins[0].confidence is None


def test_an_edge_belongs_to_the_bin_below_it():
    found = reliability(logits_of([0.5, 0.75, 1.0]), torch.tensor([0, 0, 0]), bins=4)
    assert [bin.n for bin in found.bins] == [0, 1, 1, 1]


@pytest.mark.parametrize("bins", [5, 15])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_it_agrees_with_a_second_implementation(bins, scale):
    generator = torch.Generator().manual_seed(bins)
    logits = scale * torch.randn(500, 7, generator=generator)
    y = torch.where(torch.rand(500, generator=generator) < 0.6, logits.argmax(1), torch.zeros(500, dtype=torch.long))
    found = reliability(logits, y, bins)
    assert found.ece == pytest.approx(ece_by_numpy(logits.double().numpy(), y.numpy(), bins), abs=1e-12)
    assert found.ece > 0.01
    assert sum(bin.n for bin in found.bins) == found.n == 500


def test_clean_and_worst_images_are_told_apart():
    net = make_net()
    found = judged_by(net)
    calibration = measure_calibration(*found.on(net), batch_size=16)
    assert calibration.clean.accuracy == pytest.approx(found.evaluation.clean.accuracy)
    assert calibration.adversarial.accuracy == pytest.approx(found.evaluation.robust.accuracy)
    assert calibration.adversarial.accuracy < calibration.clean.accuracy
    assert "misclassified" in calibration.rule
    with torch.no_grad():
        expected = net(found.examples.x_adv).double().softmax(1).amax(1).mean().item()
    assert calibration.adversarial.confidence == pytest.approx(expected, abs=1e-6)


def test_logits_that_are_not_finite_are_left_out_and_counted():
    net = make_net()
    found = judged_by(net)
    bright = found.x.mean((1, 2, 3)) > found.x.mean()

    def spoil(logits):
        return logits.where(~bright[:, None], math.nan) if len(logits) == len(bright) else logits

    calibration = measure_calibration(*found.on(Masked(net, after=spoil)), batch_size=len(bright))
    assert calibration.clean.n == int((~bright).sum()) < len(bright)
    assert f"{int(bright.sum())} whose logits give no probabilities" in calibration.rule
    with pytest.raises(InputError, match="no clean image give probabilities"):
        measure_calibration(*found.on(Masked(net, after=lambda logits: logits * math.nan)), batch_size=16)
