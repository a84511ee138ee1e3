"""A run on tiny digits, with less than a second per epoch."""

import torch
from torch import nn

from robustcls.data.images import Images
from robustcls.training.config import TrainConfig
from robustcls.training.run import Run

TIMES = ("seconds", "val_seconds", "images_per_second")
TINY = {
    "data": "digits(size=8)",
    "arch": "vgg16(width=0.05)",
    "eps": "0.15",
    "adv": "pgd(steps=2)",
    "augment": "affine(degrees=5.0, shift=0.05, zoom=0.05, shear=0.0)",
    "epochs": 2,
    "batch_size": 32,
    "limit_train": 160,
    "val_n": 40,
    "val_attack": "pgd(steps=2)",
    "device": "cpu",
    "precision": "fp32",
}
SMALL = {"arch": "tests.helpers.tiny_run:small_cnn", "augment": "none"}
TINIEST = {"arch": "tests.helpers.tiny_run:tiny_net", "augment": "none"}
FLAT = {"arch": "tests.helpers.tiny_run:flat_net", "augment": "none"}
FLAGS = [  # flags of `robustcls train`
    "--data", "digits(size=8)", "--arch", "tests.helpers.tiny_run:small_cnn", "--limit-train", "96", "--val-n", "20",
    "--val-attack", "fgsm", "--batch-size", "32", "--device", "cpu", "--precision", "fp32",
]  # fmt: skip


class CutError(Exception):
    """Raised in place of SIGKILL: nothing more is saved, and the files on disk stay."""


def cut_at(epoch: int, batch: int):
    """Return a callback that interrupts the run after this batch."""

    def cut(run: Run) -> None:
        if (run.state.epoch, run.state.batch) == (epoch, batch):
            raise CutError

    return cut


def small_cnn(num_classes, input_size):
    """Return a network that learns in a few updates, in any precision that a CPU has."""
    layers = [nn.Conv2d(input_size[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, num_classes))


def tiny_net(num_classes, input_size):
    """Return a network of a convolution, a BatchNorm and a linear layer, which is quick to compile."""
    layers = [nn.Conv2d(input_size[0], 4, 3, stride=4, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, num_classes))


def flat_net(num_classes, input_size):
    """Return a network without BatchNorm, so that the images of a batch do not affect each other."""
    inputs = input_size[0] * input_size[1] * input_size[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.Softplus(), nn.Linear(16, num_classes))


def brighter(_model, x, _y, **_options):
    """An attack with a known result."""
    return (x + 0.1).clamp(0, 1)


def tiny_run(folder, images: dict[int, tuple[Images, Images]], *, last: dict | None = None, **options) -> Run:
    """Make a run; options override those of TINY. images: training and validation images by `limit_train`."""
    config = TrainConfig(**{**TINY, **options})
    return Run(config, folder, *images[config.limit_train], last=last)


def first_batch(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    run.state.train_mode()
    return next(iter(run.batches()))


def named_gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the parameters and buffers of a model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b, left_out=TIMES):
    """Whether two values, with tensors in dicts and lists, are equal bit for bit, except for the keys in left_out."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], left_out) for key in a if key not in left_out)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(one, other, left_out) for one, other in zip(a, b, strict=True))
    return a == b
