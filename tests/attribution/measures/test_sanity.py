"""Sanity controls: shuffled weights and the map of another class."""

import pytest
import torch
from torch import nn

from robustcls.attribution.measures.sanity import other_class, shuffled_weights
from robustcls.core.classifier import Classifier
from tests.helpers.attribution_nets import small_classifier
from tests.helpers.seeds import random_states


@pytest.fixture
def model() -> Classifier:
    return small_classifier()


def test_shuffled_weights_keep_each_tensors_values(model: Classifier) -> None:
    head = model.net[6]
    model.net.append(nn.Linear(16, 3))
    model.net[7].weight = head.weight  # tied weights
    model.net[1].running_mean.copy_(torch.randn(4))
    model.net[0].weight.data = model.net[0].weight.data.contiguous(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = random_states()
    copy = shuffled_weights(model, 0)
    assert random_states() == state
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p is not q for p, q in zip(model.parameters(), copy.parameters(), strict=True))
    assert copy.net[7].weight is copy.net[6].weight
    for name, value in copy.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
    for name in ("net.0.weight", "net.0.bias", "net.6.weight", "net.6.bias", "net.1.running_mean"):
        assert not torch.equal(copy.state_dict()[name], before[name]), name
    assert torch.equal(copy.mean, model.mean)
    assert torch.equal(copy.std, model.std)
    again, other = shuffled_weights(model, 0).state_dict(), shuffled_weights(model, 1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in copy.state_dict().items())
    assert not torch.equal(other["net.0.weight"], copy.state_dict()["net.0.weight"])


def test_other_class_is_another_and_uniform() -> None:
    target = torch.arange(4).repeat(1000)
    state = random_states()
    other = other_class(target, 4, 0)
    assert random_states() == state
    assert other.dtype == torch.int64
    counts = torch.zeros(4, 4).index_put_((target, other), torch.ones(4000), accumulate=True)
    assert counts.diagonal().count_nonzero() == 0
    assert ((counts + 333 * torch.eye(4) - 1000 / 3).abs() < 75).all()  # five standard deviations
    assert torch.equal(other, other_class(target, 4, 0))
    assert not torch.equal(other, other_class(target, 4, 1))
    assert torch.equal(other_class(target % 2, 2, 0), 1 - target % 2)
