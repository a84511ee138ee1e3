"""`robustcls doctor`."""

import os
from importlib import metadata
from pathlib import Path

import click
from packaging.requirements import Requirement

from robustcls.cli.console import wrap

EXTRAS = {  # purpose of each extra; the list of extras itself comes from the package's metadata
    "dev": "tests and checks of robustcls itself",
    "dicom": "DICOM images",
    "heic": "photos as .heic",
    "onnx": "models as .onnx, and robustcls export",
    "prune": "robustcls train --prune",
    "ray": "robustcls serve --engine ray",
    "safetensors": "weights as .safetensors",
    "serve": "robustcls serve and monitor",
    "tensorboard": "robustcls train --track tensorboard",
    "timm": "models by --model timm/NAME",
    "wandb": "robustcls train --track wandb",
}


@click.command("doctor")
def command() -> None:
    """Show installed versions, the devices of this machine, the data sets found, and how to get what is missing.

    \b
      robustcls doctor
    """
    import torch

    from robustcls.core.processor import cpu_flags
    from robustcls.core.provenance import commit, versions
    from robustcls.runtime.device import describe_device, has_bf16, resolve_device

    lines = ["versions"]
    lines += [f"  {name:<14}{number}" for name, number in versions().items()]
    lines += [f"  {'commit':<14}{commit() or 'not a checkout'}", "", "devices"]
    lines.append(f"  {'cpu':<14}{describe_device(torch.device('cpu'))}")
    instructions = sorted(cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    lines.append(f"  {'':<14}{' '.join(instructions) or 'instruction sets unknown'}")
    for number in range(torch.cuda.device_count()):
        lines.append(f"  {f'cuda:{number}':<14}{torch.cuda.get_device_name(number)}")
    if not torch.cuda.is_available():
        lines.append(f"  {'cuda':<14}none: {_why_no_cuda()}")
    device = resolve_device()
    chosen = "bf16" if has_bf16(device) else "fp32, since the processor has no bf16 instructions"
    lines += [f"  {'auto':<14}{device}, {chosen}", "", "data", *_data(), "", "extras", *extras()]
    click.echo("\n".join(lines))


def extras() -> list[str]:
    """Return two lines for each extra: whether it is installed, or how to install it; its purpose and its packages."""
    try:
        own = metadata.metadata("robustcls").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return ["  unknown: robustcls is not installed: run pip install . in its folder"]
    lines = []
    for extra in sorted(own):
        states = {need.name: _state(need) for need in _needs(extra)}
        missing = [name for name, state in states.items() if state.endswith(" missing") or ", needs " in state]
        lines.append(f"  {extra:<14}" + (f"missing: pip install 'robustcls[{extra}]'" if missing else "installed"))
        lines.append(wrap(f"{'':<16}{EXTRAS.get(extra, '')}: {', '.join(states.values())}", indent=16))
    return lines


def _needs(extra: str) -> list[Requirement]:
    """Return the requirements that an extra adds to the package's own dependencies on this machine."""
    every = [Requirement(text) for text in metadata.requires("robustcls") or []]
    return [
        need
        for need in every
        if need.marker and need.marker.evaluate({"extra": extra}) and not need.marker.evaluate({"extra": ""})
    ]


def _state(need: Requirement) -> str:
    """Return the state of a requirement: `timm 1.0.19`, `timm missing` or `timm 0.9, needs >=1.0`."""
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return f"{need.name} missing"
    fits = need.specifier.contains(version, prereleases=True)
    return f"{need.name} {version}" + ("" if fits else f", needs {need.specifier}")


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "this PyTorch is a CPU build; see pytorch.org for a CUDA one"
    return "no NVIDIA driver found" if not Path("/proc/driver/nvidia").exists() else "the driver does not answer"


def _data() -> list[str]:
    from robustcls.core.errors import InputError
    from robustcls.core.plugins import describe
    from robustcls.data import is_made
    from robustcls.data.download import data_folder

    home = data_folder(os.environ.get("ROBUSTCLS_DATA"))
    lines = [f"  {'digits':<14}embedded"]
    for plugin in describe("data"):
        if plugin.name in ("digits", "folder") or is_made(plugin.name):
            continue
        try:
            state = is_there(plugin.name, home)
        except InputError as error:
            state = str(error)
        lines.append(f"  {plugin.name:<14}{state}")
    return [*lines, f"  {'folder:PATH':<14}any folder of images, one sub-folder per class"]


def is_there(name: str, home: Path) -> str:
    """Return whether a data set lies in the data folder, recognised by torchvision's file names, as text."""
    marks = {
        "cifar10": "cifar-10-batches-py",
        "cifar100": "cifar-100-python",
        "svhn": "test_32x32.mat",
        "fashion_mnist": "FashionMNIST",
    }
    if name in marks and any(home.rglob(marks[name])):
        return f"found in {home}"
    return f"not in {home}: downloaded when first used, or give --data-dir"
