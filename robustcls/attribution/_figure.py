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

Values = np.ndarray | Tensor
Top = Sequence[tuple[str, float]]  # class and confidence, highest first

# Inches. A panel is 448 pixels at 200 dots an inch: a whole multiple of 28, 32, 64 and 224, so that every pixel of such
# an image is drawn equally large.
DPI = 200
PANEL, GAP, LEFT, RIGHT = 2.24, 0.24, 0.20, 0.90
TITLE, HEADER, METHOD, CAPTION, BAR, SPACE = 0.34, 0.26, 0.42, 0.36, 0.17, 0.20
INK, FAINT, FILL, WRONG = "#1b1f24", "#59636e", "#c9dcf2", "#f6cfc4"
COLUMNS = [LEFT + column * (PANEL + GAP) for column in range(3)]


@dataclass(frozen=True)
class Row:
    """The maps of one method. Each is H,W, or C,H,W whose channels are summed."""

    method: str
    clean: Values  # of the clean image, for its label
    adversarial: Values  # of the adversarial image, for the same class
    adversarial_class: Values | None = None  # of the adversarial image, for its predicted class
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
    adversarial_label: the predicted class of the adversarial image, which the third explains. clean_top,
    adversarial_top: the highest confidences, in [0, 1]; three are shown. The maps of a row share one scale, printed above
    it. Raises InputError where the images' shapes differ or the file cannot be written.
    """
    clean, attacked = _array(image), _array(adversarial)
    if clean.ndim != 3 or clean.shape != attacked.shape:
        raise InputError(f"a picture of {clean.shape} and {attacked.shape}: give two images C,H,W of the same size")
    tall = PANEL * min(1.5, max(0.5, clean.shape[1] / clean.shape[2]))
    bars = 3 * BAR if clean_top or adversarial_top else 0.0
    first, row = HEADER + tall + bars + SPACE, METHOD + CAPTION + tall + SPACE
    top = (TITLE if title else 0.12) + first + len(maps) * row
    sheet = _Sheet(_snap(LEFT + 3 * PANEL + 2 * GAP + RIGHT), _snap(top), tall)
    top = sheet.height - (TITLE if title else 0.12)
    if title:
        sheet.write(LEFT, sheet.height - 0.24, _short(title, 96), size=10, weight="bold")
    _draw_images(sheet, top, clean, attacked)
    for left, confidences in ((COLUMNS[0], clean_top), (COLUMNS[2], adversarial_top)):
        for rank, (name, confidence) in enumerate(confidences[:3]):
            _draw_confidence(sheet, left, top - HEADER - tall - (rank + 1) * BAR, name, confidence, name == label)
    for number, entry in enumerate(maps):
        _draw_maps(sheet, top - first - number * row, entry, label, adversarial_label)
    with atomic_write(path) as part:
        # Without its version: the same input gives the same bytes.
        sheet.figure.savefig(part, format="png", metadata={"Software": None})


class _Sheet:
    """A figure on which places are in inches from the lower left corner, and axes on whole pixels."""

    def __init__(self, width: float, height: float, tall: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height, self.tall = width, height, tall  # tall: the height of a panel
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, bottom: float, width: float, height: float) -> "Axes":
        box = _snap(left) / self.width, _snap(bottom) / self.height, _snap(width) / self.width
        return self.figure.add_axes((*box, _snap(height) / self.height))

    def panel(self, left: float, top: float, pixels: np.ndarray, **style: Any) -> Any:
        """An image H,W or H,W,3 without axes, whose left upper corner is there."""
        axes = self.axes(left, top - self.tall, PANEL, self.tall)
        axes.set(xticks=[], yticks=[])
        axes.set_anchor("NW")  # an image narrower than the panel starts where its caption does
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes.imshow(pixels, interpolation="nearest", **style)

    def write(
        self,
        left: float,
        bottom: float,
        text: str,
        *,
        size: float = 8,
        weight: str = "normal",
        color: str = INK,
        align: str = "left",
    ) -> None:
        style: dict[str, Any] = {"fontsize": size, "fontweight": weight, "color": color, "ha": align}
        # A class may be called $100: it is not a formula.
        place = left / self.width, bottom / self.height
        self.figure.text(*place, readable(text), va="baseline", parse_math=False, **style)


def _draw_images(sheet: _Sheet, top: float, clean: np.ndarray, attacked: np.ndarray) -> None:
    delta = attacked - clean
    largest = float(np.abs(delta).max())
    factor = _amplification(largest)
    text = f"perturbation × {factor:g}, largest {largest * 255:.3g}/255" if largest else "perturbation: none"
    images = {"clean": clean, text: 0.5 + factor * delta, "adversarial": attacked}
    for left, (name, pixels) in zip(COLUMNS, images.items(), strict=True):
        sheet.write(left, top - 0.17, name, weight="normal" if name == text else "bold")
        if len(pixels) == 3:
            sheet.panel(left, top - HEADER, pixels.clip(0, 1).transpose(1, 2, 0))
        else:  # the grey of the channels' mean
            sheet.panel(left, top - HEADER, pixels.mean(0).clip(0, 1), cmap="gray", vmin=0, vmax=1)


def _draw_confidence(sheet: _Sheet, left: float, bottom: float, name: str, confidence: float, right: bool) -> None:
    """A class and its confidence over a bar of that length: blue for the label, red for any other class."""
    axes = sheet.axes(left, bottom, PANEL, BAR - 0.02)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.barh(0, confidence, height=1, color=FILL if right else WRONG)
    axes.set_ylim(-0.5, 0.5)
    sheet.write(left + 0.04, bottom + 0.04, _short(name, 26), weight="bold" if right else "normal", size=7.5)
    sheet.write(left + PANEL - 0.04, bottom + 0.04, f"{100 * confidence:.1f}%", size=7.5, align="right")


def _draw_maps(sheet: _Sheet, top: float, row: Row, label: str, adversarial_label: str) -> None:
    """A method's name and range, its three maps, and the colour bar."""
    given = (row.clean, row.adversarial, row.adversarial_class)
    maps = [None if one is None else _flat(one) for one in given]
    values = np.concatenate([one.ravel() for one in maps if one is not None])
    signed = bool((values < 0).any()) if row.signed is None else row.signed
    limit, largest = _limits(values)
    scale = f"{'±' if signed else '0 to '}{limit:.2g}" if largest else "all zero"
    beyond = f" holds 99.5% of the values, the largest is {largest:.2g}" if limit < largest else ""
    about = " · ".join(filter(None, (row.note, f"scale {scale}{beyond}")))
    sheet.write(LEFT, top - 0.15, _short(row.method, 80), weight="bold", size=9)
    sheet.write(LEFT, top - 0.31, _short(about, 120), color=FAINT)
    top -= METHOD
    captions = {
        "clean image": label, "adversarial image, same class": label, "adversarial image, its class": adversarial_label,
    }  # fmt: skip
    colours = {"cmap": "RdBu_r" if signed else "cividis", "vmin": -limit if signed else 0, "vmax": limit}
    for left, one, (name, target) in zip(COLUMNS, maps, captions.items(), strict=True):
        if one is None:
            sheet.write(left, top - 0.13, "adversarial image: no other class", color=FAINT)
            continue
        sheet.write(left, top - 0.13, name, color=FAINT)
        sheet.write(left, top - 0.28, f"for {_short(target, 34)}")
        shown = sheet.panel(left, top - CAPTION, one, **colours)
    axes = sheet.axes(LEFT + 3 * PANEL + 3 * GAP - 0.10, top - CAPTION - sheet.tall, 0.11, sheet.tall)
    pointed = ("both" if signed else "max") if limit < largest else "neither"  # where values lie beyond the bar
    bar = sheet.figure.colorbar(shown, cax=axes, extend=pointed, extendfrac=0.04)
    ticks = [-limit, 0, limit] if signed else [0, limit]
    bar.set_ticks(ticks, labels=[f"{tick:+.2g}" if signed and tick else f"{tick:.2g}" for tick in ticks])
    bar.ax.tick_params(labelsize=7, colors=FAINT, length=2, pad=2)
    bar.outline.set_linewidth(0.4)


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
