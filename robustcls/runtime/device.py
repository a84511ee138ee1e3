"""The choice of device, precision and batch size, and process-wide settings of PyTorch."""

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from robustcls.core.errors import InputError
from robustcls.core.options import parse_batch_size
from robustcls.core.processor import cpu_flags, proc_field

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device for auto, cpu, cuda or cuda:i. Raises InputError for one that does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} is not known: give auto, cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported: give auto, cpu, cuda or cuda:0")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        raise InputError(f"device {name!r} is not there: PyTorch sees {there} CUDA devices; give cpu")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """Resolve auto to bf16 where the device has bf16 instructions, else to fp32. Raises InputError for an unsupported one."""
    if name == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if name not in DTYPES:
        raise InputError(f"precision {name!r} is not known: give auto, fp32, bf16 or fp16")
    if name == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs CUDA: give fp32, or bf16 where the processor has it")
    return name


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 matrix instructions (CUDA from compute capability 8, AVX512-BF16, AMX)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return an autocast context for bf16 or fp16, and a context that does nothing for fp32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Within the block, compute products of fp32 numbers in full fp32 precision, forward and backward.

    By default CUDA rounds the inputs of convolutions to TF32, and `torch.set_float32_matmul_precision` can reduce the precision
    further.
    """
    # PyTorch has two sets of switches, and the next product fails where they disagree. So the older ones are set as well,
    # unless they cannot be read because the user has set the newer ones.
    cuda: Any = torch.backends.cuda
    cudnn: Any = torch.backends.cudnn
    onednn: Any = torch.backends.mkldnn
    backends = (cuda.matmul, cudnn.conv, cudnn.rnn, onednn.matmul)
    newer = [backend.fp32_precision for backend in backends]
    try:
        older = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        older = None

    def set_all(older: tuple[str, bool] | None, newer: Sequence[str]) -> None:
        if older:
            torch.set_float32_matmul_precision(older[0])
            cudnn.allow_tf32 = older[1]
        for backend, precision in zip(backends, newer, strict=True):
            backend.fp32_precision = precision

    set_all(older and ("highest", False), ["ieee"] * len(backends))
    try:
        yield
    finally:
        set_all(older, newer)


def describe_device(device: torch.device) -> str:
    """Return the device's name with the details that are needed to compare timings."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = proc_field("cpuinfo", "model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def resolve_batch_size(batch_size: int | str, input_size: Sequence[int], device: torch.device) -> int:
    """Return the batch size; auto gives one that keeps the activations of a VGG16 in the caches (CPU) or the GPU busy (CUDA).

    Raises InputError for a value that is neither auto nor a positive number.
    """
    batch_size = parse_batch_size(batch_size)
    if isinstance(batch_size, int):
        return batch_size
    area = input_size[-1] * input_size[-2]
    pixels = 512 * 32 * 32 if device.type == "cuda" else 128 * 32 * 32
    return max(4, min(pixels // area, pixels // (28 * 28)))


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its work, as needed for timing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_deterministic() -> None:
    """Use deterministic operations only, process-wide: others are replaced, or raise where there is no replacement."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def search_for_fastest_convolutions() -> None:
    """Let cuDNN time its algorithms on each new shape, process-wide. Only for training, where all batches have one shape."""
    torch.backends.cudnn.benchmark = True


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks for the next tensor of the same size.

    By default glibc returns each block to the kernel, and the next allocation causes page faults: about a fifth of a training
    step on a CPU. The setting is process-wide, so only the command line applies it, not the library. In Python, start the
    interpreter with MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483647. These variables are read before main,
    so a command cannot set them for itself.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
