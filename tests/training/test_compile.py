"""Compiled runs."""

import shutil

import pytest
import torch

from robustcls.models.checkpoint import restore
from robustcls.runtime.fused import FusedModel
from robustcls.training.loop import fit
from tests.helpers.tiny_run import TINIEST, tiny_net


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="needs a C++ compiler")
def test_a_compiled_run_trains_to_nearly_the_same_weights(make_run):
    states = []
    for compiled in (False, True):
        run = make_run(f"{compiled}", **TINIEST, compile=compiled, epochs=1, adv="fgsm")
        fit(run)
        states.append(torch.load(run.folder / "ckpt.pt", weights_only=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # the model was compiled
    plain, fast = (content["state_dict"] for content in states)
    start = tiny_net(10, (1, 8, 8)).state_dict()
    assert list(plain) == list(fast) == list(start)
    for name, tensor in plain.items():
        assert torch.allclose(fast[name].float(), tensor.float(), atol=1e-3), name
    model, _ = restore(states[1], "ckpt.pt", trusted=TINIEST["arch"])
    twin = FusedModel(run.state.model)
    x = torch.rand(4, 1, 8, 8)
    assert torch.allclose(model(x), twin(x), atol=1e-3)
