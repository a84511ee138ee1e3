"""Fast copies of a model for attacks: BatchNorm is folded into the preceding layers, in low precision where that is faster.

Adversarial images found on the copy are only candidates, which the fp32 model verifies.
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
    """Base class that counts images in forward and backward passes, and replaces non-finite entries of their gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = self.backwards = 0
        self.chains: list[list[Wrapper]] = []  # wrappers that run the model inside several times per pass
        self._not_finite: int | Tensor = 0
        self.odd: Tensor = torch.zeros(0)  # bool N: images of the last pass whose gradient had a non-finite entry

    @property
    def not_finite(self) -> int:
        """Number of images whose gradient had non-finite entries."""
        return int(self._not_finite)

    def _watch(self, images: Tensor, logits: Tensor) -> None:
        self.odd = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        if images.requires_grad:
            images.register_hook(self._finite)
        if logits.requires_grad:
            logits.register_hook(self._count)

    def _finite(self, grad: Tensor) -> Tensor:
        # Summed on the device, so that the host need not wait.
        # The largest magnitude is not finite if any entry is not; on a CPU this is faster than checking every entry.
        self.odd = ~grad.detach().abs().amax((1, 2, 3)).isfinite()
        self._not_finite = self._not_finite + self.odd.sum()
        return finite(grad)

    def _count(self, grad: Tensor) -> None:
        self.backwards += len(grad) * self._repeats()

    def _repeats(self) -> int:
        """Return the number of passes of the model inside for one pass of this one."""
        return passes_of(self.chains)


class FusedModel(_Watched):
    """An eval-mode copy of a model for attacks: `forward` returns fp32 logits and counts the images.

    `refresh` copies the model's weights after an update. Parameters of the copy take no gradient.
    """

    def __init__(
        self, model: nn.Module, precision: str = "fp32", x: Tensor | None = None, *, fold: bool = True
    ) -> None:
        """x: an image 1,C,H,W, with which the order of layers is traced; by default a black image of the model's input size.

        fold: whether to fold BatchNorms into the preceding layers.
        """
        super().__init__()
        self.precision = precision
        self.device, self.dtype = device_of(model), dtype_of(model)
        self.compiled = self.replayed = False
        self.copy = merge(copy.deepcopy(model)).eval()
        for parameter in self.copy.parameters():  # one by one, because a ScriptModule has no requires_grad_
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
                original, copied = dict(_named_tensors(source)), _named_tensors(twin)
                self._same += [(original[name], tensor) for name, tensor in copied if name in original]
                # A tensor that the source has not is a merged weight, which the source computes.
                self._computed += [(source, tensor) for name, tensor in copied if name not in original]
        # New tensors, because another layer may share the weight. They are rounded once, not in each pass.
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
        """Copy the model's current weights and statistics."""
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
        """Compile the copy with torch.compile.

        cuda_graphs: on CUDA, replay it as CUDA graphs, without the cost of each kernel launch. any_size: compile for any batch
        size, because batches shrink as samples become misclassified.
        """
        torch._functorch.config.donated_buffer = False  # attacks take several gradients of one forward pass
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
    """Return the logits of images N,C,H,W. A single image that takes a gradient is run together with a detached copy.

    The memory format of a single image is ambiguous. Layers with channels-last weights may then run in the other format, where
    pooling breaks ties differently, and the gradient would depend on the other images in the batch.
    """
    if len(images) == 1 and images.requires_grad:
        try:
            return model(torch.cat([images, images.detach()]))[:1]
        except Exception:  # two images may not fit in memory, or not be allowed; any other error occurs again below
            pass
    return model(images)


def scale_gradients(x: Tensor, logits: Tensor) -> None:
    """Scale each sample's gradient at the logits to a largest entry near 2^10, and scale it back at x.

    In fp16, the gradient of a confidently classified sample would round to zero, and its attack would make no step. Scaling per
    sample is exact, because in eval mode samples do not interact, and powers of two do not change the mantissa.
    """
    scales: list[Tensor] = []

    def up(grad: Tensor) -> Tensor:
        largest = grad.abs().amax(1, keepdim=True)
        scales.append(torch.where(largest > 0, torch.exp2(10 - largest.clamp_min(1e-30).log2().ceil()), 1.0))
        return grad * scales[-1]

    logits.register_hook(up)
    x.register_hook(lambda grad: grad / scales[-1].view(-1, 1, 1, 1))


class Counted(_Watched):
    """A model that counts images in forward and backward passes: fp32 images, which are not modified, to fp32 logits.

    The logits are computed in exact fp32; a gradient that is taken later has the precision that PyTorch is set to. PyTorch has
    one switch for the whole process, and attacks search in TF32 between two verdicts. Each forward pass therefore sets the
    switch and restores it, and two threads must not evaluate at the same time.
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
    """Return a context in which compiled models run uncompiled (eager).

    Attacks change batch sizes, modes and gradient flags, and each change would trigger another compilation; a machine without a
    C++ compiler could not evaluate the model at all. While torch._dynamo is not imported, which takes a second, nothing is
    compiled, and the context does nothing.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def folded_weights(layer: Layer, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the single layer that is equivalent to `layer` followed by `norm` in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    weight = layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    return weight, bias if layer.bias is None else bias + layer.bias * scale


@torch.no_grad()
def foldable(model: nn.Module, x: Tensor) -> list[tuple[Layer, Norm]]:
    """Return the layers whose output is used only by a BatchNorm, found in one forward pass of x (N,C,H,W) in eval mode."""
    calls: Counter[int] = Counter()
    uses = _Uses()
    made: list[tuple[Any, Tensor]] = []  # keeps the tensors alive, so that their ids are not reused
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
    """Counts the functions that compute tensors from each tensor; reading its shape does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.of.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return result


def own_tensors(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module, without those of its submodules."""
    return [tensor for _, tensor in _named_tensors(module)]


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
