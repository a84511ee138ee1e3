import contextlib
import json

import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.runtime import device as runtime
from robustcls.runtime.device import (
    autocast,
    describe_device,
    exact_fp32,
    has_bf16,
    resolve_batch_size,
    resolve_device,
    resolve_precision,
)
from tests.helpers.process import python
from tests.helpers.tiny_run import FLAGS

CPU = torch.device("cpu")


def test_devices(monkeypatch):
    assert resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device() == CPU
    for name in ("cuda", "cuda:0"):
        with pytest.raises(InputError, match="is not there"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device() == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="PyTorch sees 2 CUDA devices"):
        resolve_device("cuda:2")
    with pytest.raises(InputError, match="is not supported"):
        resolve_device("mps")
    for name in ("gpu", "", "cuda:x"):
        with pytest.raises(InputError, match="is not known"):
            resolve_device(name)


def test_precisions(monkeypatch):
    for flags, expected in (({"avx2"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16"), (set(), "fp32")):
        monkeypatch.setattr(runtime, "cpu_flags", lambda flags=flags: flags)
        assert resolve_precision("auto", CPU) == expected
        assert has_bf16(CPU) == (expected == "bf16")
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("fp16", torch.device("cuda")) == "fp16"
    with pytest.raises(InputError, match="fp16 needs CUDA"):
        resolve_precision("fp16", CPU)
    with pytest.raises(InputError, match="give auto, fp32, bf16 or fp16"):
        resolve_precision("int8", CPU)


def test_autocast():
    a = torch.rand(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert (a @ a).dtype == dtype


CUDA, CUDNN = torch.backends.cuda, torch.backends.cudnn


def asked_for_tf32():
    return CUDA.matmul.fp32_precision == "tf32", CUDNN.conv.fp32_precision == "tf32"


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_fp32_is_exact_inside_and_what_it_was_outside(precision, convolutions):
    def state():  # reading them fails if older and newer switches disagree
        return torch.get_float32_matmul_precision(), CUDNN.allow_tf32, CUDA.matmul.allow_tf32, *asked_for_tf32()

    torch.set_float32_matmul_precision(precision)
    CUDNN.allow_tf32 = convolutions
    try:
        before = state()
        with contextlib.suppress(ZeroDivisionError), exact_fp32(), exact_fp32():
            inside = state()
            raise ZeroDivisionError
        assert inside == ("highest", False, False, False, False)
        assert (
            state() == before == (precision, convolutions, precision != "highest", precision != "highest", convolutions)
        )
    finally:
        torch.set_float32_matmul_precision("highest")
        CUDNN.allow_tf32 = True


def test_every_switch_is_what_it_was_and_a_later_one_for_all_is_no_exception():
    backends = (CUDA.matmul, CUDNN.conv, CUDNN.rnn, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    with exact_fp32():
        pass
    assert [backend.fp32_precision for backend in backends] == before
    CUDNN.allow_tf32 = False  # leaves convolutions to the general switch
    torch.backends.fp32_precision = "tf32"
    try:
        with exact_fp32():
            assert asked_for_tf32() == (False, False)
    finally:
        torch.backends.fp32_precision = "none"
        CUDNN.allow_tf32 = True
    assert [backend.fp32_precision for backend in backends] == before


def test_fp32_is_exact_inside_where_the_newer_switches_were_used():
    CUDA.matmul.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError, match="mix of the legacy and new API"):
            torch.get_float32_matmul_precision()
        with exact_fp32():
            assert asked_for_tf32() == (False, False)
        assert asked_for_tf32() == (True, True)
    finally:
        CUDA.matmul.fp32_precision = "none"
    assert torch.get_float32_matmul_precision() == "highest"
    assert CUDNN.allow_tf32


def test_batch_sizes():
    assert resolve_batch_size(7, (3, 32, 32), CPU) == resolve_batch_size("7", (3, 32, 32), CPU) == 7
    assert resolve_batch_size("auto", (3, 32, 32), CPU) == 128
    assert resolve_batch_size("auto", (3, 32, 32), torch.device("cuda")) == 512
    sizes = [resolve_batch_size("auto", (3, side, side), CPU) for side in (8, 28, 64, 224, 2000)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 4
    for wrong in (0, -1, "0", "many", ""):
        with pytest.raises(InputError, match="batch_size"):
            resolve_batch_size(wrong, (3, 32, 32), CPU)


def test_the_device_in_words():
    assert f"{torch.get_num_threads()} threads" in describe_device(CPU)


DETERMINISTIC = """
import os, json, torch
from robustcls.cli.main import main
from robustcls.runtime.device import make_deterministic
torch.backends.cudnn.benchmark = True
before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
try:
    main(["train", *{flags}, "--deterministic", "--epochs", "1", "--out", "run", "--quiet"])
except SystemExit as end:
    assert end.code == 0
assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) == before
state = [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark]
state += [os.environ["CUBLAS_WORKSPACE_CONFIG"]]
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
make_deterministic()
print(json.dumps([*state, os.environ["CUBLAS_WORKSPACE_CONFIG"]]))
"""


@pytest.mark.slow
def test_deterministic_holds_for_the_process(tmp_path):
    done = python(DETERMINISTIC.format(flags=FLAGS), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False, ":4096:8", ":16:8"]
    assert not torch.are_deterministic_algorithms_enabled()
