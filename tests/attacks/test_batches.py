"""An attack treats a sample in the same way in any batch: its random numbers and decisions depend on the sample alone."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import robustcls
from robustcls.core.losses import misclassified
from tests.helpers.attack_contract import ATTACKS, cheap, norms_of, right_labels, threat_of, traits

N = 16
FEW = {"steps": 6, "binary_search_steps": 2, "queries": 70}  # more queries than one call draws numbers for
SHARE = {"linf": 0.5, "l2": 1.0, "l1": 1.5, "l0": 1}  # of the radii in attack_contract: some samples break, some do not
OWN = [name for name in ATTACKS if not traits(name).universal]  # a universal attack must meet all samples at once
every_norm = pytest.mark.parametrize(("name", "norm"), [(name, norm) for name in OWN for norm in norms_of(name)])


@cache
def subject() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a net in float64, so that the batch size does not affect rounding, and images that it classifies correctly."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 36, 4)).double().eval()
    x = 0.2 + 0.6 * torch.rand(N, 3, 8, 8)
    return net, x, right_labels(net, x.double())


def attacked(name: str, norm: str, rows: Tensor | slice, batch_size: int, **given) -> Tensor:
    net, x, y = subject()
    index = torch.arange(N)[rows]
    threat = threat_of(name, norm, SHARE[norm])
    spec = cheap(name, **FEW | given)
    return robustcls.attack(net, x[rows], y[rows], threat, spec, batch_size=batch_size, seed=5, index=index)


def assert_alike(found: Tensor, expected: Tensor, rows: Tensor | slice) -> None:
    net, _, y = subject()
    assert (found - expected).abs().max() < 1e-5
    assert torch.equal(misclassified(net(found.double()), y[rows]), misclassified(net(expected.double()), y[rows]))


@pytest.mark.slow
@every_norm
def test_the_batch_size_decides_nothing(name, norm):
    whole = attacked(name, norm, slice(None), 64)
    for size in (1, 7):
        assert_alike(attacked(name, norm, slice(None), size), whole, slice(None))


@every_norm
def test_the_other_samples_of_a_batch_do_not_matter(name, norm):
    """The result is the same for a sample at another position in another batch, and for a sample alone."""
    whole = attacked(name, norm, slice(None), 64)
    for rows in (torch.tensor([11, 4, 15, 9, 0]), torch.tensor([7])):
        assert_alike(attacked(name, norm, rows, 64), whole[rows], rows)
