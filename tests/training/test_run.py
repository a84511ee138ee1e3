"""Setting up a run: its precision, and what is refused before it begins."""

import math

import pytest
import torch

import robustcls
from robustcls.core.errors import InputError
from robustcls.runtime.device import resolve_precision
from robustcls.training.loop import fit
from tests.helpers.tiny_run import TINIEST


@pytest.mark.parametrize(("has", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_precision_auto_is_bf16_where_the_processor_multiplies_in_it(has, wanted, make_run, monkeypatch):
    monkeypatch.setattr("robustcls.runtime.device.has_bf16", lambda device: has)
    assert make_run(precision="auto").precision == wanted
    assert resolve_precision("auto", torch.device("cpu")) == wanted


def test_bf16_trains_and_saves_fp32(make_run):
    run = make_run(precision="bf16", epochs=1, adv="fgsm")
    fit(run)
    assert math.isfinite(run.state.history[0].train_loss)
    assert {tensor.dtype for tensor in robustcls.load(run.folder / "ckpt.pt").parameters()} == {torch.float32}


def test_batches_of_one_image_are_refused(make_run):
    with pytest.raises(InputError, match="give `batch_size`"):
        make_run(batch_size=1)


def test_a_tracker_that_is_not_there_is_refused(make_run):
    with pytest.raises(InputError, match="unknown tracker 'tensorbored'"):
        make_run(track=("tensorbored",))


def test_cuda_graphs_need_cuda(make_run):
    with pytest.raises(InputError, match="`cuda_graphs` needs a CUDA device"):
        make_run(**TINIEST, cuda_graphs=True)
