"""Runs models in ONNX files with onnxruntime; gradients come from the file's twin in PyTorch."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError, one_line
from robustcls.core.files import sha256
from robustcls.models.onnx.facts import OnnxFacts
from robustcls.models.onnx.graph import OnnxGraph
from robustcls.models.onnx.operators.straight import straight_through
from robustcls.models.onnx.reading import NoTwin
from robustcls.results.artefact import Manifest
from robustcls.runtime.session import CPU, open_session

# Tolerances for the twin's logits: fractions of the largest logit, without and with rounding in the file; and an absolute one.
_FAR, _FAR_ROUNDED, _NEAR = 0.02, 0.5, 1e-5
_PROVIDERS = {"cuda": "CUDAExecutionProvider"}


class OnnxNet(nn.Module):
    """The network of an ONNX file: float32 images N,C,H,W to logits N,K.

    It runs on CUDA where onnxruntime supports it and x is there. The logits always come from onnxruntime. The gradient is that
    of the twin at the same x, straight through rounding: BPDA (arXiv:1802.00420). A file with an operator that the twin does
    not support has no gradient: then `differentiable` is False, and `no_gradient` says why.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises InputError for a file that onnxruntime cannot read, or that is not a classifier of images N,C,H,W."""
        super().__init__()
        self.path = str(path)
        self._sessions: dict[str, Any] = {}
        session = self._session("cpu")
        self._input = _only(self.path, "input", session.get_inputs())
        self._output = _only(self.path, "output", session.get_outputs())
        shape = self._input.shape
        if self._input.type != "tensor(float)" or len(shape) != 4:
            raise InputError(f"{path} takes {self._input.type} of shape {shape}: export it with float32 images N,C,H,W")
        if shape[3] in (1, 3) and shape[1] not in (1, 3):
            raise InputError(f"{path} takes images N,H,W,C of shape {shape}: export it with N,C,H,W")
        if len(self._output.shape or (0, 0)) != 2:  # a shape that the file leaves open is empty
            raise InputError(f"{path} gives shape {self._output.shape}: export it with logits N,K as its output")
        self.batch_size: int | None = _fixed(shape[0])  # the only one that the file allows; None for any
        self.num_classes = _fixed((self._output.shape or (0, 0))[1])
        self.twin: OnnxGraph | None = None
        self.no_gradient = ""
        self._twin_alone = False
        self.manifest: Manifest | None = None  # of the artefact, where the file was loaded as part of one
        try:
            self.twin = OnnxGraph(self.path)
        except Exception as error:  # any class: the file can be evaluated without its twin
            self._give_up(error)

    @property
    def differentiable(self) -> bool:
        return self.twin is not None

    def try_twin(self, input_size: Sequence[int]) -> None:
        """Drop the twin where it does not compute the same function as the file, tested on two images of noise.

        Its logits must have the shape of the file's, be finite where those are finite, and be near them. They may differ by
        0.02 of the largest logit. Where the file rounds, 0.5 of it is allowed, because an early difference in rounding is
        amplified by later rounding; the test should find a different function, not a different rounding. The evaluation's check
        `twin` measures how many labels agree.
        """
        if self.twin is None:
            return
        x = torch.rand(
            self.batch_size or 2, *input_size, generator=torch.Generator().manual_seed(0), requires_grad=True
        )
        try:
            file_logits = self._run(x)
            with torch.enable_grad():
                twin_logits = self.twin(x)
                if twin_logits.requires_grad:
                    torch.autograd.grad(twin_logits.sum(), x)
            self._compare(twin_logits, file_logits)
        except Exception as error:
            self._give_up(error)

    def _compare(self, twin_logits: Tensor, file_logits: Tensor) -> None:
        """Raise NoTwin where the twin's logits are far from the file's."""
        assert self.twin is not None
        subject = f"the graph of {self.path} in PyTorch, which gives its gradients, "
        if twin_logits.shape != file_logits.shape:
            shapes = f"{tuple(twin_logits.shape)}, the file {tuple(file_logits.shape)}"
            raise NoTwin(f"{subject}has outputs of shape {shapes}")
        finite = file_logits.isfinite()
        if not twin_logits.isfinite()[finite].all():
            raise NoTwin(f"{subject}has outputs that are not finite where the file's are")
        largest = file_logits[finite].abs().max().item() if finite.any() else 0.0
        off = (twin_logits - file_logits)[finite].abs().max().item() if finite.any() else 0.0
        if off > (_FAR_ROUNDED if self.twin.rounds else _FAR) * largest + _NEAR:
            raise NoTwin(f"{subject}has other outputs: they differ by {off:.2g}, where the largest is {largest:.2g}")

    def _give_up(self, error: Exception) -> None:
        self.twin = None
        self.no_gradient = (
            str(error) if isinstance(error, InputError) else f"no gradient of {self.path}: {one_line(error)}"
        )

    def input_size(self, assumed: Sequence[int]) -> tuple[int, ...]:
        """Return (C, H, W), with the assumed size where the file leaves it open."""
        return tuple(_fixed(size) or other for size, other in zip(self._input.shape[1:], assumed, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        parts = [x] if self.batch_size is None else x.split(self.batch_size)
        return torch.cat([self._logits(part) for part in parts])

    def _logits(self, x: Tensor) -> Tensor:
        missing = (self.batch_size or len(x)) - len(x)
        full = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)]) if missing else x
        if self._twin_alone and self.twin is not None:
            return self.twin(full)[: len(x)]
        logits = self._run(full)
        if self.twin is not None and torch.is_grad_enabled() and x.requires_grad:
            logits = straight_through(self.twin(full), logits)
        return logits[: len(x)]

    @property
    def parameters_in_file(self) -> int:
        """Number of weights and biases in the file; 0 where onnx is not installed."""
        try:
            return OnnxFacts.of(self.path).parameters
        except ImportError:
            return 0

    def runner(self, threads: int) -> Callable[[Any], Any]:
        """Return a function that runs the file on the CPU with so many threads: from an array N,C,H,W to logits N,K."""
        session = _open(self.path, "cpu", threads)
        return lambda pixels: session.run([self._output.name], {self._input.name: pixels})[0]

    @contextmanager
    def in_pytorch(self) -> Iterator[None]:
        """Within the block, the logits come from the twin as well."""
        self._twin_alone = True
        try:
            yield
        finally:
            self._twin_alone = False

    def _run(self, x: Tensor) -> Tensor:
        pixels = x.detach().to("cpu", torch.float32).contiguous()
        session = self._session(x.device.type)
        logits = session.run([self._output.name], {self._input.name: pixels.numpy()})[0]
        wide = torch.from_numpy(logits)
        # Half-precision logits are converted, because their gradients would underflow.
        return (wide.float() if wide.dtype == torch.float16 else wide).to(x.device)

    def _session(self, device: str) -> Any:
        if device not in self._sessions:
            self._sessions[device] = _open(self.path, device)
        return self._sessions[device]


def net_of(model: nn.Module) -> OnnxNet | None:
    """Return the OnnxNet inside a model; None where there is none."""
    return next((one for one in model.modules() if isinstance(one, OnnxNet)), None)


def load_onnx(
    path: str | Path,
    *,
    classes: Sequence[str],
    input_size: Sequence[int],
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> Classifier:
    """Load the classifier of an ONNX file. Raises InputError.

    classes: class names of the data, used where there are as many as outputs, because a file has no class names. input_size: of
    the data, used where the file leaves its size open. mean, std: the normalisation that the file expects.
    """
    net = OnnxNet(path)
    if net.num_classes not in (None, len(classes)):
        classes = [str(number) for number in range(net.num_classes or 0)]
    size = net.input_size(input_size)
    net.try_twin(size)
    return Classifier(net, classes=classes, input_size=size, mean=mean, std=std, arch="onnx").eval()


def hash_onnx(path: str | Path) -> str:
    """Return the SHA-256 of the file and of the files that large models store their weights in.

    These are `PATH.data` and, where onnx is installed to read their names, others.
    """
    if not Path(path).is_file():
        raise InputError(f"no file {path}: give an ONNX model, a checkpoint, or a state dict with `arch`")
    usual = Path(f"{path}.data")
    others = sorted({Path(path).parent / name for name in _locations(path)} - {usual})
    beside = [one for one in (usual, *others) if one.is_file()]
    if not beside:
        return sha256(path)
    return hashlib.sha256("".join(map(sha256, (path, *beside))).encode()).hexdigest()


def _locations(path: str | Path) -> list[str]:
    """Return the names of the files that contain values of a model's initializers."""
    try:
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # onnx is not installed, or this is not an ONNX file, which onnxruntime will report
        return []
    outside = [one for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
    return [entry.value for one in outside for entry in one.external_data if entry.key == "location"]


def _open(path: str, device: str, threads: int | None = None) -> Any:
    return open_session(path, threads or torch.get_num_threads(), dict.fromkeys((_PROVIDERS.get(device, CPU), CPU)))


def _only(path: str, what: str, values: Sequence[Any]) -> Any:
    if len(values) != 1:
        names = ", ".join(value.name for value in values)
        raise InputError(f"{path} has {len(values)} {what}s ({names}): export it with the images in and the logits out")
    return values[0]


def _fixed(size: Any) -> int | None:
    """Return the size of a dimension; None where it is open, which files write as a name, -1 or nothing."""
    return size if isinstance(size, int) and size > 0 else None
