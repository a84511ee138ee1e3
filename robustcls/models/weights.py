"""Reads weight files without running any code in them."""

import argparse
import hashlib
import pathlib
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError

# Classes that training code stores beside the weights and that are safe to unpickle, because creating them has no side effects.
HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,
    *(
        (pathlib.PureWindowsPath if "Windows" in kind else pathlib.PurePosixPath, f"{module}.{kind}")
        for module in ("pathlib", "pathlib._local")  # the module's name since Python 3.13
        for kind in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ),
    numpy.dtype,
    *(type(numpy.dtype(kind)) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")),
    *((numpy.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)
CONVERT = "in a session that trusts it, torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"


def read_file(path: str | Path) -> Any:
    """Return the content of a .pt or .safetensors file, on the CPU. Raises InputError unless it is tensors and primitives."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"no file {path}: give a checkpoint, a state dict with `arch`, or package.module:callable")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(list(HARMLESS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise InputError(f"cannot read {path}: {_why_unread(path, error)}") from None


def _why_unread(path: Path, error: Exception) -> str:
    if (path / "ckpt.pt").exists():
        return f"it is a run folder: give {path / 'ckpt.pt'}"
    if path.is_dir():
        return (
            "it is a folder, but neither of export, which holds manifest.json, nor of a run, which holds ckpt.pt: give one of "
            "these, a checkpoint or a state dict"
        )
    if isinstance(error, OSError):
        return f"{error.strerror}: give a checkpoint or a state dict"
    with open(path, "rb") as file:
        head, rest = file.read(2), file.read(62)
    if (head + rest).startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file: git lfs pull"
    if head[:1] != b"\x80" and head != b"PK":
        return f"it is {'not a PyTorch file' if head else 'empty'}: give a checkpoint or a state dict"
    whole = head != b"PK" or zipfile.is_zipfile(path)
    if whole and (isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error)):
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        name = f" ({match[1]})" if match else ""
        return (
            f"it holds more than tensors{name} and is not loaded, since it could run code: save model.state_dict(), or "
            f"{CONVERT}"
        )
    return "it is truncated or damaged: copy or save it again"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f"{path} needs safetensors: pip install 'robustcls[safetensors]'") from None
    try:
        return load_file(path)
    except Exception as error:  # its own exception class is not exported
        raise InputError(f"cannot read {path}: it is truncated or damaged ({error!s:.80})") from None


def hash_weights(model: nn.Module) -> str:
    """Return the SHA-256, in hex, of a model's parameters and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, Tensor):
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
