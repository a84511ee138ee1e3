"""The model as attacks use it: a copy with BatchNorm folded into the layers before, in low precision where that is faster.

Adversarial images found on the copy are proposals, which the fp32 model verifies.
"""

import copy
import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from robustcls.core.classifier import check_logits, device_of, dtype_of, input_size_of
from robustcls.core.gradients import finite
from robustcls.core.logits import Wrapper, chains_in, passes_of
from robustcls.runtime.device import DTYPES, autocast, exact_fp32
from robustcls.runtime.low_rank import merge, plain_modules

Layer = nn.Conv2d | nn.Linear
Norm = nn.BatchNorm2d | nn.BatchNorm1d
_FOLDABLE = ((nn.Conv2d, nn.BatchNorm2d, 4), (nn.Linear, nn.BatchNorm1d, 2))  # layer, norm, dimensions between them


class _Watched(nn.Module):
    """Counts the images that pass forward and backward; attacks get gradients without entries that are not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = self.backwards = 0
        self.chains: list[list[Wrapper]] = []  # whose passes are several of the model inside
        self._not_finite: int | Tensor = 0
        self.odd: Tensor = torch.zeros(0)  # N, bool: images of the latest pass whose gradient was not finite somewhere

    @property
    def not_finite(self) -> int:
        """Images whose gradient came back with entries that were not finite."""
        return int(self._not_finite)

    def _watch(self, images: Tensor, logits: Tensor) -> None:
        self.odd = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        if images.requires_grad:
            images.register_hook(self._finite)
        if logits.requires_grad:
            logits.register_hook(self._count)

    def _finite(self, grad: Tensor) -> Tensor:
        # Added up where the gradient lies: the host need not wait.
        # The largest of the sizes is not finite where any entry is not; on a CPU that is faster than to ask each.
        self.odd = ~grad.detach().abs().amax((1, 2, 3)).isfinite()
        self._not_finite = self._not_finite + self.odd.sum()
        return finite(grad)

    def _count(self, grad: Tensor) -> None:
        self.backwards += len(grad) * self._repeats()

    def _repeats(self) -> int:
        """Passes of the model inside for one of this one."""
        return passes_of(self.chains)


class FusedModel(_Watched):
    """An eval-mode copy of a model for attacks: `forward` gives fp32 logits and counts the images that pass.

    `refresh` takes over the model's weights after an update. Parameters of the copy need no gradient.
    """

    def __init__(
        self, model: nn.Module, precision: str = "fp32", x: Tensor | None = None, *, fold: bool = True
    ) -> None:
        """x: an image 1,C,H,W that shows what follows what; black by default, where the model says its input size."""
        super().__init__()
        self.precision = precision
        self.device, self.dtype = device_of(model), dtype_of(model)
        self.compiled = self.replayed = False
        self.copy = merge(copy.deepcopy(model)).eval()
        for parameter in self.copy.parameters():  # one by one, for a ScriptModule has no requires_grad_
            parameter.requires_grad_(False)
        if x is None and (size := input_size_of(model)) is not None:
            x = torch.zeros(1, *size, device=self.device)
        pairs = foldable(self.copy, x.to(self.dtype, copy=True)) if fold and x is not None else []
        folded = {id(module) for pair in pairs for module in pair}
        modules = list(zip(plain_modules(model), self.copy.modules(), strict=True))
        source_of: dict[int, Any] = {id(twin): source for source, twin in modules}
        self._folds = [((source_of[id(layer)], source_of[id(norm)]), layer) for layer, norm in pairs]
        self._same: list[tuple[Tensor, Tensor]] = []
        self._computed: list[tuple[nn.Module, Tensor]] = []
        for source, twin in modules:
            if id(twin) not in folded:
                own, copied = dict(_named_tensors(source)), _named_tensors(twin)
                self._same += [(own[name], tensor) for name, tensor in copied if name in own]
                self._computed += [(source, tensor) for name, tensor in copied if name not in own]  # a merged weight
        # Tensors of their own, for another layer may share the weight; rounded once, not at each pass.
        for layer, _ in pairs:
            layer.weight = nn.Parameter(torch.empty_like(layer.weight, dtype=self._low), requires_grad=False)
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)), requires_grad=False)
        for name, module in list(self.copy.named_modules(remove_duplicate=False)):
            if any(module is norm for _, norm in pairs):
                self.copy.set_submodule(name, nn.Identity())
        for parameter in self.copy.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the model's weights and statistics."""
        for source, copied in self._same:
            copied.copy_(source)
        for layer, copied in self._computed:
            copied.copy_(layer.weight)  # type: ignore[arg-type]
        for (layer, norm), folded in self._folds:
            weight, bias = folded_weights(layer, norm)
            assert folded.bias is not None
            folded.weight.copy_(weight)
            folded.bias.copy_(bias)

    @property
    def _low(self) -> torch.dtype:
        return self.dtype if self.precision == "fp32" else DTYPES[self.precision]

    def compile_copy(self, *, cuda_graphs: bool = False, any_size: bool = False) -> None:
        """Compiles the copy (torch.compile). cuda_graphs: on CUDA also replays it, without the cost of each launch.

        any_size: batches shrink as samples are misclassified, and must not be compiled for each size.
        """
        torch._functorch.config.donated_buffer = False  # several gradients of one pass
        self.copy.compile(mode="reduce-overhead" if cuda_graphs else None, dynamic=any_size or None)
        self.compiled, self.replayed = True, cuda_graphs

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        images = x.to(self.dtype, copy=True)  # a copy: some models write on their input
        if self.replayed:
            torch.compiler.cudagraph_mark_step_begin()
        with nullcontext() if self.compiled else uncompiled(), autocast(self.precision, self.device):
            logits = in_company(self.copy, images).float()
        if self.replayed:  # the next replay writes where these lie; of gradients, `_finite` makes a copy
            logits = logits.clone()
        if logits.requires_grad and self.precision == "fp16":
            scale_gradients(images, logits)
        self._watch(images, logits)
        return logits


def in_company(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of images N,C,H,W, where a lone one that takes a gradient passes twice and only the first takes it.

    The memory format of one image is ambiguous. Layers whose weights are channels-last may then run in the other, where
    pooling breaks its ties in another way, and the gradient would depend on who else is in the batch.
    """
    if len(images) == 1 and images.requires_grad:
        try:
            return model(torch.cat([images, images.detach()]))[:1]
        except Exception:  # there is memory for one, or the model takes no more: what else it may be shows below
            pass
    return model(images)


def scale_gradients(x: Tensor, logits: Tensor) -> None:
    """On its way from the logits to x, each sample's gradient is scaled to a largest entry near 2^10, then back.

    A confident sample's gradient would round to zero in fp16, and its attack would make no step. In eval mode samples do
    not mix, and powers of two change no digit.
    """
    scales: list[Tensor] = []

    def up(grad: Tensor) -> Tensor:
        largest = grad.abs().amax(1, keepdim=True)
        scales.append(torch.where(largest > 0, torch.exp2(10 - largest.clamp_min(1e-30).log2().ceil()), 1.0))
        return grad * scales[-1]

    logits.register_hook(up)
    x.register_hook(lambda grad: grad / scales[-1].view(-1, 1, 1, 1))


class Counted(_Watched):
    """A model that counts the images passing forward and backward: fp32 images, left as they are, to fp32 logits.

    Logits are those of exact fp32; a gradient that is taken afterwards is of the precision that PyTorch is set to. PyTorch
    has one switch per process, and attacks search in TF32 between two verdicts: so each forward pass sets it and restores
    it, and two threads must not evaluate at once.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype_of(model)
        self.chains = chains_in(model)
        self.channels_last = any(p.ndim == 4 and not p.is_contiguous() for p in model.parameters())

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x) * self._repeats()
        images = x.to(self.dtype, copy=True)
        mixed = self.channels_last or not images.is_contiguous()
        with uncompiled(), exact_fp32():
            logits = in_company(self.model, images) if mixed else self.model(images)
        check_logits(logits)
        logits = logits.float()
        self._watch(images, logits)
        return logits


def uncompiled() -> AbstractContextManager:
    """Whatever torch.compile made runs as it was written.

    Attacks change batch sizes, modes and gradient flags, and each change would compile again; a machine without a C++
    compiler could not judge the model at all. Nothing is compiled before torch._dynamo is imported, which takes a second.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def folded_weights(layer: Layer, norm: Norm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one layer that equals layer, then norm in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    weight = layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    return weight, bias if layer.bias is None else bias + layer.bias * scale


@torch.no_grad()
def foldable(model: nn.Module, x: Tensor) -> list[tuple[Layer, Norm]]:
    """Layers whose output goes to a BatchNorm and nowhere else, as one forward pass of x (N,C,H,W) in eval mode shows."""
    calls: Counter[int] = Counter()
    uses = _Uses()
    made: list[tuple[Any, Tensor]] = []  # holds the tensors, so that none of their ids is given out again
    pairs: list[tuple[Any, Any, Tensor]] = []

    def record(module: nn.Module, arguments: tuple, output: Tensor) -> None:
        calls[id(module)] += 1
        if isinstance(module, Layer):
            made.append((module, output))
            uses.of[id(output)] = 0
        else:
            pairs.extend((layer, module, tensor) for layer, tensor in made if arguments and tensor is arguments[0])

    kinds = {kind for layer, norm, _ in _FOLDABLE for kind in (layer, norm)}
    hooks = [
        m.register_forward_hook(record)
        for m in model.modules()
        if type(m) in kinds
        and not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or hasattr(m, "parametrizations"))
    ]
    try:
        with uncompiled(), uses:
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (layer, norm)
        for layer, norm, tensor in pairs
        if (type(layer), type(norm), tensor.ndim) in _FOLDABLE
        and norm.affine
        and norm.track_running_stats
        and calls[id(layer)] == calls[id(norm)] == 1
        and uses.of[id(tensor)] == 1
    ]


class _Uses(TorchFunctionMode):
    """Counts the functions that make tensors from a tensor; asking for its shape is no use."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.of.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return result


def own_tensors(module: nn.Module) -> list[Tensor]:
    return [tensor for _, tensor in _named_tensors(module)]


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
