"""Files of weights, read so that nothing in them runs."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError


def read_file(path: str | Path) -> Any:
    """What a .pt or .safetensors file holds, on the CPU. Raises InputError for anything but tensors and primitives."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"no file {path}: give a checkpoint, a state dict with --arch, or package.module:callable")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the unpickler raise
        raise InputError(f"cannot read {path}: {_why_unread(path, error)}") from None


def _why_unread(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror}: give a checkpoint or a state dict"
    with open(path, "rb") as file:
        head = file.read(2)
    if head[:1] != b"\x80" and head != b"PK":
        return f"it is {'not a PyTorch file' if head else 'empty'}: give a checkpoint or a state dict"
    whole = head != b"PK" or zipfile.is_zipfile(path)
    if whole and (isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error)):
        return "it holds more than tensors and is not loaded, since it could run code: save model.state_dict()"
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
