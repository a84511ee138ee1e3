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

_FAR, _FAR_ROUNDED, _NEAR = 0.02, 0.5, 1e-5  # of the largest logit, of that of a file that rounds, and of any
_PROVIDERS = {"cuda": "CUDAExecutionProvider"}


class OnnxNet(nn.Module):
    """The network of an ONNX file: float32 N,C,H,W to logits N,K, on CUDA where onnxruntime has it and x lies there.

    The logits are always onnxruntime's. Where a gradient is asked for, it is that of the file's twin at the same x, past
    rounding straight through: BPDA (arXiv:1802.00420). A file with an operator that the twin lacks has no gradient:
    `no_gradient` says which; `differentiable` is then False.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises InputError for a file that onnxruntime cannot read, or that is no classifier of images N,C,H,W."""
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
        self.batch_size: int | None = _fixed(shape[0])  # where the file allows no other
        self.num_classes = _fixed((self._output.shape or (0, 0))[1])
        self.twin: OnnxGraph | None = None
        self.no_gradient = ""
        self._twin_alone = False
        self.manifest: Manifest | None = None  # of the artefact that the file lies in, where it was loaded as one
        try:
            self.twin = OnnxGraph(self.path)
        except Exception as error:  # of any class: the file runs without its twin
            self._give_up(error)

    @property
    def differentiable(self) -> bool:
        return self.twin is not None

    def try_twin(self, input_size: Sequence[int]) -> None:
        """Gives the twin up where it is not the file's: on two images of noise, C,H,W, it must give logits of the file's
        shape, finite where the file's are, and near them.

        They may differ by 0.02 of the largest logit; of a file that rounds by 0.5 of it, since whatever falls the other
        way early is rounded again later: this finds another function, not another rounding. How many labels are the same,
        the evaluation's check `twin` says.
        """
        if self.twin is None:
            return
        x = torch.rand(
            self.batch_size or 2, *input_size, generator=torch.Generator().manual_seed(0), requires_grad=True
        )
        try:
            theirs = self._run(x)
            with torch.enable_grad():
                mine = self.twin(x)
                if mine.requires_grad:
                    torch.autograd.grad(mine.sum(), x)
            self._compare(mine, theirs)
        except Exception as error:
            self._give_up(error)

    def _compare(self, mine: Tensor, theirs: Tensor) -> None:
        """Raises NoTwin where the twin's logits are far from the file's."""
        assert self.twin is not None
        said = f"the graph of {self.path} in PyTorch, which gives its gradients, "
        if mine.shape != theirs.shape:
            raise NoTwin(f"{said}has outputs of shape {tuple(mine.shape)}, the file {tuple(theirs.shape)}")
        finite = theirs.isfinite()
        if not mine.isfinite()[finite].all():
            raise NoTwin(f"{said}has outputs that are no finite numbers, as the file's are")
        largest = theirs[finite].abs().max().item() if finite.any() else 0.0
        off = (mine - theirs)[finite].abs().max().item() if finite.any() else 0.0
        if off > (_FAR_ROUNDED if self.twin.rounds else _FAR) * largest + _NEAR:
            raise NoTwin(f"{said}has other outputs: they differ by {off:.2g}, where the largest is {largest:.2g}")

    def _give_up(self, error: Exception) -> None:
        self.twin = None
        self.no_gradient = (
            str(error) if isinstance(error, InputError) else f"no gradient of {self.path}: {one_line(error)}"
        )

    def input_size(self, assumed: Sequence[int]) -> tuple[int, ...]:
        """(C, H, W), with the assumed size where the file leaves it open."""
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
        """Weights and biases that the file stores; 0 where onnx is not installed."""
        try:
            return OnnxFacts.of(self.path).parameters
        except ImportError:
            return 0

    def runner(self, threads: int) -> Callable[[Any], Any]:
        """Runs the file on the CPU with so many threads: an array N,C,H,W to logits N,K."""
        session = _open(self.path, "cpu", threads)
        return lambda pixels: session.run([self._output.name], {self._input.name: pixels})[0]

    @contextmanager
    def in_pytorch(self) -> Iterator[None]:
        """In it, the logits are the twin's, too."""
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
        return (wide.float() if wide.dtype == torch.float16 else wide).to(x.device)  # a half's gradient would underflow

    def _session(self, device: str) -> Any:
        if device not in self._sessions:
            self._sessions[device] = _open(self.path, device)
        return self._sessions[device]


def net_of(model: nn.Module) -> OnnxNet | None:
    """The ONNX file inside a model, where it is one."""
    return next((one for one in model.modules() if isinstance(one, OnnxNet)), None)


def load_onnx(
    path: str | Path,
    *,
    classes: Sequence[str],
    input_size: Sequence[int],
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> Classifier:
    """The classifier of an ONNX file; what it leaves open of its input size is the data's, and so are the classes where
    there are as many as outputs: a file has no names for them.

    mean, std: the normalisation that the file expects to have been done. Raises InputError.
    """
    net = OnnxNet(path)
    if net.num_classes not in (None, len(classes)):
        classes = [str(number) for number in range(net.num_classes or 0)]
    size = net.input_size(input_size)
    net.try_twin(size)
    return Classifier(net, classes=classes, input_size=size, mean=mean, std=std, arch="onnx").eval()


def hash_onnx(path: str | Path) -> str:
    """SHA-256 of the file, together with the weights that large models keep beside it: in `PATH.data`, and under any other
    name where onnx is installed to read it."""
    if not Path(path).is_file():
        raise InputError(f"no file {path}: give an ONNX model, a checkpoint, or a state dict with `arch`")
    usual = Path(f"{path}.data")
    others = sorted({Path(path).parent / name for name in _locations(path)} - {usual})
    beside = [one for one in (usual, *others) if one.is_file()]
    if not beside:
        return sha256(path)
    return hashlib.sha256("".join(map(sha256, (path, *beside))).encode()).hexdigest()


def _locations(path: str | Path) -> list[str]:
    """The files that hold values of a model's initializers."""
    try:
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # without onnx, or no ONNX file at all, which onnxruntime says
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
    """A dimension's size; none where it is open, which files write as a name, -1 or nothing."""
    return size if isinstance(size, int) and size > 0 else None
