"""The model as attacks search on it: a twin with BatchNorm folded into the convolutions, in low precision where that pays.

What the twin finds is a proposal. The model itself decides, in fp32.
"""

import copy
from collections import Counter

import torch
from torch import Tensor, nn

from robustcls.core.classifier import check_logits, device_of, dtype_of
from robustcls.core.gradients import frozen
from robustcls.runtime.device import autocast

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


class SearchTwin(nn.Module):
    """An eval-mode copy of a model for attacks: `forward` gives fp32 logits and counts the images that pass.

    `refresh` takes over the model's weights after an update. Parameters of the twin need no gradient.
    """

    def __init__(self, model: nn.Module, precision: str = "fp32") -> None:
        super().__init__()
        self.precision = precision
        self.device, self.dtype = device_of(model), dtype_of(model)
        self.forwards = self.backwards = 0
        self._source = [model]  # in a list, so that the model is not a sub-module of its twin
        self.twin = copy.deepcopy(model).eval().requires_grad_(False)
        self._folds = list(zip(_foldable(model), _foldable(self.twin), strict=True))
        folded = {id(module) for _, pair in self._folds for module in pair}
        self._same = [
            (source, twin)
            for source_module, twin_module in zip(model.modules(), self.twin.modules(), strict=True)
            if id(twin_module) not in folded
            for source, twin in zip(_own_tensors(source_module), _own_tensors(twin_module), strict=True)
        ]
        for _, (conv, norm) in self._folds:
            conv.bias = nn.Parameter(norm.weight.new_zeros(conv.out_channels), requires_grad=False)
        _replace(self.twin, {id(norm): nn.Identity() for _, (_, norm) in self._folds})
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the model's weights and statistics."""
        for source, copied in self._same:
            copied.copy_(source)
        for (conv, norm), (folded, _) in self._folds:
            weight, bias = folded_weights(conv, norm)
            assert folded.bias is not None
            folded.weight.copy_(weight)
            folded.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        with autocast(self.precision, self.device):
            logits = self.twin(x.to(self.dtype, copy=True)).float()  # a copy: some models write on their input
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, grad: Tensor) -> None:
        self.backwards += len(grad)


class Counted(nn.Module):
    """A model that counts the images passing forward and backward: fp32 images, left as they are, to fp32 logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype_of(model)
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.model(x.to(self.dtype, copy=True))
        check_logits(logits)
        logits = logits.float()
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, grad: Tensor) -> None:
        self.backwards += len(grad)


def make_search_model(model: nn.Module, precision: str, x: Tensor) -> SearchTwin | Counted:
    """A twin of the model where one can be made and agrees with it on x (N,C,H,W), else the model itself.

    Agreement: fp32 logits within a thousandth of their largest, low-precision ones within a tenth.
    """
    with torch.no_grad(), frozen(model):
        expected = Counted(model)(x)
        try:
            twin = SearchTwin(model, precision)
            proposed = twin(x)
        except Exception:  # whatever a model raises that cannot be copied, or cannot run in this precision
            return Counted(model)
    twin.forwards = 0
    tolerance = (1e-3 if precision == "fp32" else 0.1) * expected.abs().max()
    return twin if (proposed - expected).abs().max() <= tolerance else Counted(model)


def folded_weights(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals conv, then norm in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    return conv.weight * scale.view(-1, 1, 1, 1), bias if conv.bias is None else bias + conv.bias * scale


def _foldable(model: nn.Module) -> list[Pair]:
    """Convolutions whose output goes to a BatchNorm and nowhere else: neighbours in a plain nn.Sequential."""
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return [
        (conv, norm)
        for sequence in model.modules()
        if type(sequence) is nn.Sequential
        for conv, norm in zip(list(sequence), list(sequence)[1:], strict=False)
        if type(conv) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.track_running_stats
        and uses[id(conv)] == uses[id(norm)] == 1
        and not _is_observed(conv)
        and not _is_observed(norm)
    ]


def _is_observed(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(hooks) or hasattr(module, "parametrizations")


def _own_tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _replace(model: nn.Module, replacements: dict[int, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if id(child) in replacements:
                setattr(parent, name, replacements[id(child)])
