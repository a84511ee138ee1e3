"""`robustcls doctor`."""

import importlib.util
import os
from pathlib import Path

import click

EXTRAS = {
    "safetensors": ("safetensors", "pip install 'robustcls[safetensors]'", "weights as .safetensors"),
    "torchattacks": ("torchattacks", "pip install torchattacks", "a contestant of robustcls bench"),
}


@click.command("doctor")
def command() -> None:
    """Say which versions are installed, what this machine can do, which data is there, and how to get the rest.

    \b
      robustcls doctor
    """
    import torch

    from robustcls.core.provenance import commit, versions
    from robustcls.runtime.device import cpu_flags, describe_device, has_bf16, resolve_device

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
    lines += [f"  {'auto':<14}{device}, {chosen}", "", "data", *_data(), "", "extras"]
    for name, (module, how, what) in EXTRAS.items():
        found = "installed" if importlib.util.find_spec(module) else f"missing: {how}"
        lines.append(f"  {name:<14}{found}  ({what})")
    click.echo("\n".join(lines))


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "this PyTorch is a CPU build; see pytorch.org for a CUDA one"
    return "no NVIDIA driver found" if not Path("/proc/driver/nvidia").exists() else "the driver does not answer"


def _data() -> list[str]:
    from robustcls.core.errors import InputError
    from robustcls.core.plugins import describe
    from robustcls.data.download import data_folder

    home = data_folder(os.environ.get("ROBUSTCLS_DATA"))
    lines = [f"  {'digits':<14}embedded"]
    for plugin in describe("data"):
        if plugin.name in ("digits", "folder"):
            continue
        try:
            found = is_there(plugin.name, home)
        except InputError as error:
            found = str(error)
        lines.append(f"  {plugin.name:<14}{found}")
    return [*lines, f"  {'folder:PATH':<14}any folder of images, one sub-folder a class"]


def is_there(name: str, home: Path) -> str:
    """Whether a data set lies in the data folder, by the names that torchvision gives its files."""
    marks = {
        "cifar10": "cifar-10-batches-py",
        "cifar100": "cifar-100-python",
        "svhn": "test_32x32.mat",
        "fashion_mnist": "FashionMNIST",
    }
    if name in marks and any(home.rglob(marks[name])):
        return f"found in {home}"
    return f"not in {home}: downloaded when first used, or give --data-dir"
