"""The picture of one sample: clean image, perturbation and adversarial image above the maps of each method."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write
from robustcls.core.names import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Values = np.ndarray | Tensor
Top = Sequence[tuple[str, float]]  # class and confidence, highest first

# Inches. A panel is 448 pixels at 200 dots an inch: a whole multiple of 28, 32, 64 and 224, so that every pixel of such
# an image is drawn equally large.
DPI = 200
PANEL, GAP, LEFT, RIGHT = 2.24, 0.24, 0.20, 0.90
TITLE, HEADER, METHOD, CAPTION, BAR, SPACE = 0.34, 0.26, 0.42, 0.36, 0.17, 0.20
INK, FAINT, FILL, WRONG = "#1b1f24", "#59636e", "#c9dcf2", "#f6cfc4"


@dataclass(frozen=True)
class Row:
    """The maps of one method. Each is H,W, or C,H,W whose channels are summed."""

    method: str
    clean: Values  # of the clean image, for its label
    adversarial: Values  # of the adversarial image, for the same class
    adversarial_class: Values | None = None  # of the adversarial image, for the class that it is taken for
    note: str = ""  # such as GradCAM's grid
    signed: bool | None = None  # None: signed where a value is negative


def draw(
    path: str | Path,
    *,
    image: Values,
    adversarial: Values,
    maps: Sequence[Row],
    label: str,
    adversarial_label: str,
    clean_top: Top = (),
    adversarial_top: Top = (),
    title: str = "",
) -> None:
    """Writes one sample as a PNG: clean | perturbation | adversarial, then a row of three maps for each method.

    image, adversarial: C,H,W in [0, 1]. label: the class of the clean image, which the first two maps of a row explain.
    adversarial_label: the class that the adversarial image is taken for, which the third explains. clean_top,
    adversarial_top: the highest confidences, in [0, 1]; three are shown. The maps of a row share one scale, printed above
    it. Raises InputError where the images' shapes differ or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    clean, attacked = _array(image), _array(adversarial)
    if clean.ndim != 3 or clean.shape != attacked.shape:
        raise InputError(f"a picture of {clean.shape} and {attacked.shape}: give two images C,H,W of the same size")
    tall = PANEL * min(1.5, max(0.5, clean.shape[1] / clean.shape[2]))
    bars = 3 * BAR if clean_top or adversarial_top else 0.0
    first = HEADER + tall + bars + SPACE
    row = METHOD + CAPTION + tall + SPACE
    height = _snap((TITLE if title else 0.12) + first + len(maps) * row)
    width = _snap(LEFT + 3 * PANEL + 2 * GAP + RIGHT)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    top = height - (TITLE if title else 0.12)
    if title:
        _write(figure, LEFT, height - 0.24, _short(title, 96), size=10, weight="bold")
    _images(figure, top, tall, clean, attacked, label, clean_top, adversarial_top)
    for number, entry in enumerate(maps):
        _maps(figure, top - first - number * row, tall, entry, label, adversarial_label)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})  # no version: the same input, the same bytes


def _images(
    figure: "Figure",
    top: float,
    tall: float,
    clean: np.ndarray,
    attacked: np.ndarray,
    label: str,
    clean_top: Top,
    adv: Top,
) -> None:
    """The row of pictures, with the confidences below the two images."""
    delta = attacked - clean
    largest = float(np.abs(delta).max())
    factor = _amplification(largest)
    text = f"perturbation × {factor:g}, largest {largest * 255:.3g}/255" if largest else "perturbation: none"
    for column, (name, pixels) in enumerate(
        (("clean", clean), (text, 0.5 + factor * delta), ("adversarial", attacked)),
    ):
        _write(figure, _left(column), top - 0.17, name, weight="normal" if column == 1 else "bold")
        _picture(_panel(figure, column, top - HEADER, tall), pixels)
    for column, confidences in ((0, clean_top), (2, adv)):
        for rank, (name, confidence) in enumerate(confidences[:3]):
            _confidence(figure, _left(column), top - HEADER - tall - (rank + 1) * BAR, name, confidence, name == label)


def _maps(figure: "Figure", top: float, tall: float, row: Row, label: str, adversarial_label: str) -> None:
    """A method's name and range, its three maps, and the colour bar."""
    maps = [_flat(row.clean), _flat(row.adversarial)]
    if row.adversarial_class is not None:
        maps.append(_flat(row.adversarial_class))
    values = np.concatenate([values.ravel() for values in maps])
    signed = bool((values < 0).any()) if row.signed is None else row.signed
    limit, largest = _limits(values)
    scale = f"{'±' if signed else '0 to '}{limit:.2g}" if largest else "all zero"
    beyond = f" holds 99.5% of the values, the largest is {largest:.2g}" if limit < largest else ""
    about = " · ".join(filter(None, (row.note, f"scale {scale}{beyond}")))
    _write(figure, LEFT, top - 0.15, _short(row.method, 80), weight="bold", size=9)
    _write(figure, LEFT, top - 0.31, _short(about, 120), color=FAINT)
    captions = (
        ("clean image", label),
        ("adversarial image, same class", label),
        ("adversarial image, its class", adversarial_label),
    )
    for column, (name, target) in enumerate(captions):
        if column == len(maps):
            _write(figure, _left(2), top - METHOD - 0.13, "adversarial image: no other class", color=FAINT)
            continue
        _write(figure, _left(column), top - METHOD - 0.13, name, color=FAINT)
        _write(figure, _left(column), top - METHOD - 0.28, f"for {_short(target, 34)}")
        axes = _panel(figure, column, top - METHOD - CAPTION, tall)
        shown = axes.imshow(
            maps[column],
            cmap="RdBu_r" if signed else "cividis",
            vmin=-limit if signed else 0,
            vmax=limit,
            interpolation="nearest",
        )
    _scale(figure, top - METHOD - CAPTION, tall, shown, limit, signed, limit < largest)


def _scale(
    figure: "Figure", top: float, tall: float, shown: "AxesImage", limit: float, signed: bool, clipped: bool
) -> None:
    """The colour bar at the end of a row; pointed where values lie beyond it."""
    axes = _axes(figure, LEFT + 3 * PANEL + 3 * GAP - 0.10, top - tall, 0.11, tall)
    ends = ("both" if signed else "max") if clipped else "neither"
    bar = figure.colorbar(shown, cax=axes, extend=ends, extendfrac=0.04)
    ticks = [-limit, 0, limit] if signed else [0, limit]
    bar.set_ticks(ticks, labels=[f"{tick:+.2g}" if signed and tick else f"{tick:.2g}" for tick in ticks])
    bar.ax.tick_params(labelsize=7, colors=FAINT, length=2, pad=2)
    bar.outline.set_linewidth(0.4)


def _picture(axes: "Axes", pixels: np.ndarray) -> None:
    """An image C,H,W: colour where it has three channels, else the grey of their mean."""
    if len(pixels) == 3:
        axes.imshow(pixels.clip(0, 1).transpose(1, 2, 0), interpolation="nearest")
    else:
        axes.imshow(pixels.mean(0).clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _confidence(figure: "Figure", left: float, bottom: float, name: str, confidence: float, right: bool) -> None:
    """A class and its confidence over a bar of that length: blue for the label, red for any other class."""
    axes = _axes(figure, left, bottom, PANEL, BAR - 0.02)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.barh(0, confidence, height=1, color=FILL if right else WRONG)
    axes.set_ylim(-0.5, 0.5)
    _write(figure, left + 0.04, bottom + 0.04, _short(name, 26), weight="bold" if right else "normal", size=7.5)
    _write(figure, left + PANEL - 0.04, bottom + 0.04, f"{100 * confidence:.1f}%", size=7.5, align="right")


def _panel(figure: "Figure", column: int, top: float, tall: float) -> "Axes":
    axes = _axes(figure, _left(column), top - tall, PANEL, tall)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("NW")  # an image narrower than the panel starts where its caption does
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _axes(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Axes at a place in inches from the lower left corner, on whole pixels."""
    across, up = figure.get_size_inches()
    box = (_snap(left) / across, _snap(bottom) / up, _snap(width) / across, _snap(height) / up)
    return figure.add_axes(box)


def _write(
    figure: "Figure",
    left: float,
    bottom: float,
    text: str,
    *,
    size: float = 8,
    weight: str = "normal",
    color: str = INK,
    align: str = "left",
) -> None:
    across, up = figure.get_size_inches()
    style: dict[str, Any] = {"fontsize": size, "fontweight": weight, "color": color, "ha": align}
    # A class may be called $100: it is not a formula.
    figure.text(left / across, bottom / up, readable(text), va="baseline", parse_math=False, **style)


def _left(column: int) -> float:
    return LEFT + column * (PANEL + GAP)


def _snap(inches: float) -> float:
    return round(inches * DPI) / DPI


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def _array(values: Values) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float32)


def _flat(values: Values) -> np.ndarray:
    """A map as H,W: channels are summed, as `robustcls.attribution.collapse` does."""
    array = _array(values)
    return array.sum(0) if array.ndim == 3 else array


def _amplification(largest: float) -> float:
    """The factor, of two digits, that makes the largest change fill the range from grey to black or white."""
    if largest == 0:
        return 1.0
    exact = 0.5 / largest
    unit = 10.0 ** (math.floor(math.log10(exact)) - 1)
    return math.floor(exact / unit) * unit


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Where the colours end, and the largest magnitude.

    A few pixels can stand so far out that the rest would look blank: then the colours end where 99.5% of the values lie.
    """
    size = np.abs(values[np.isfinite(values)])
    if not size.any():
        return 1.0, 0.0
    largest = float(size.max())
    most = float(np.quantile(size, 0.995))
    return (most if 0 < most < largest / 1.5 else largest), largest
