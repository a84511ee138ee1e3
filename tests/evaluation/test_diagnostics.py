import json

import pytest
import torch
from eval_models import make_batch, make_net
from torch import nn

import robustcls
from robustcls.core.threat import ThreatModel


class Around(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.net, self.change = make_net(), change

    def forward(self, x):
        return self.change(self.net(x))


class Quantised(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_net()

    def forward(self, x):
        return self.net((x * 16).round() / 16)


def checks(model):
    x, y = make_batch()
    found = robustcls.evaluate(model, x, y, ThreatModel("linf", 0.02), attacks=["fgsm"], precision="fp32")
    assert json.loads(found.to_json())["checks"]
    return {check.id: check for check in found.checks}


IDS = {"zero_gradients", "softmax_output", "random_output"}


def failed(model):
    found = checks(model)
    assert found.keys() == IDS
    return {name for name, check in found.items() if check.status == "fail"}


def test_a_sound_model_passes():
    found = checks(make_net())
    assert {check.status for check in found.values()} == {"pass"}
    assert found["zero_gradients"].measured == 0
    assert all(check.message and "\n" not in check.message for check in found.values())


def test_a_softmax_is_named():
    model = Around(lambda logits: logits.softmax(1))
    assert failed(model) == {"softmax_output"}
    assert "without its softmax" in checks(model)["softmax_output"].message
    assert failed(Around(lambda logits: logits.log_softmax(1))) == set()
    assert failed(Around(lambda logits: logits.sigmoid())) == set()


@pytest.mark.parametrize("size", [1e-2, 1.0])
def test_a_random_model_is_named(size):
    model = Around(lambda logits: logits + size * torch.randn_like(logits))
    assert failed(model) == {"random_output"}
    assert checks(model)["random_output"].measured > 1e-4


@pytest.mark.parametrize(
    "model", [Quantised(), Around(lambda logits: logits.round()), Around(lambda logits: 1e4 * logits)]
)
def test_gradients_of_zero_are_named(model):
    assert failed(model) == {"zero_gradients"}
    found = checks(model)["zero_gradients"]
    assert found.measured > found.threshold == 0.05
    assert "without gradients" in found.message


def test_a_model_of_nan_is_named_and_written():
    found = checks(Around(lambda logits: logits * float("nan")))
    assert found["random_output"].status == "fail"
    assert found["random_output"].measured is None
