"""Draw one sample as a PNG: clean image, perturbation and adversarial image, and below them the maps of each method."""

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
Top = Sequence[tuple[str, float]]  # (class, confidence), highest first

# In inches. At 200 dots per inch, a panel has 448 pixels: a multiple of 28, 32, 64 and 224, so that all pixels of images of
# these sizes are drawn equally large.
DPI = 200
PANEL, GAP, LEFT, RIGHT = 2.24, 0.24, 0.20, 0.90
TITLE, HEADER, METHOD, CAPTION, BAR, SPACE = 0.34, 0.26, 0.42, 0.36, 0.17, 0.20
INK, FAINT, FILL, WRONG = "#1b1f24", "#59636e", "#c9dcf2", "#f6cfc4"
COLUMNS = [LEFT + column * (PANEL + GAP) for column in range(3)]


@dataclass(frozen=True)
class Row:
    """The maps of one method, each H,W, or C,H,W, of which the channels are summed."""

    method: str
    clean: Values  # of the clean image, for its label
    adversarial: Values  # of the adversarial image, for the same class
    adversarial_class: Values | None = None  # of the adversarial image, for its predicted class
    note: str = ""  # for example the grid of Grad-CAM
    signed: bool | None = None  # None: signed if any value is negative


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
    """Write a PNG of one sample: clean | perturbation | adversarial, then a row of three maps for each method.

    image, adversarial: C,H,W in [0, 1]. label: the class of the clean image, which the first two maps of a row explain.
    adversarial_label: the predicted class of the adversarial image, which the third map explains. clean_top,
    adversarial_top: the highest confidences, in [0, 1]; three are shown. The maps of a row share one scale, which is printed
    above the row. Raises InputError if the shapes of the images differ or the file cannot be written.
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
        # The metadata omit the version of matplotlib, so that the same input always gives the same bytes.
        sheet.figure.savefig(part, format="png", metadata={"Software": None})


class _Sheet:
    """A figure with positions in inches from the lower left corner; its axes lie on whole pixels."""

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
        """Draw an image H,W or H,W,3 without axes, with its upper left corner at (left, top)."""
        axes = self.axes(left, top - self.tall, PANEL, self.tall)
        axes.set(xticks=[], yticks=[])
        axes.set_anchor("NW")  # align an image that is narrower than the panel with its caption
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
        # parse_math=False: the name of a class may contain a $, which would begin a formula.
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
        else:  # the mean of the channels as grey levels
            sheet.panel(left, top - HEADER, pixels.mean(0).clip(0, 1), cmap="gray", vmin=0, vmax=1)


def _draw_confidence(sheet: _Sheet, left: float, bottom: float, name: str, confidence: float, right: bool) -> None:
    """Draw a class and its confidence over a bar of that length: blue for the label, red for any other class."""
    axes = sheet.axes(left, bottom, PANEL, BAR - 0.02)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.barh(0, confidence, height=1, color=FILL if right else WRONG)
    axes.set_ylim(-0.5, 0.5)
    sheet.write(left + 0.04, bottom + 0.04, _short(name, 26), weight="bold" if right else "normal", size=7.5)
    sheet.write(left + PANEL - 0.04, bottom + 0.04, f"{100 * confidence:.1f}%", size=7.5, align="right")


def _draw_maps(sheet: _Sheet, top: float, row: Row, label: str, adversarial_label: str) -> None:
    """Draw the name and the scale of a method, its three maps and the colour bar."""
    maps = [None if one is None else _flat(one) for one in (row.clean, row.adversarial, row.adversarial_class)]
    values = np.concatenate([one.ravel() for one in maps if one is not None])
    signed = bool((values < 0).any()) if row.signed is None else row.signed
    limit, largest = _limits(values)
    scale = f"{'±' if signed else '0 to '}{limit:.2g}" if largest else "all zero"
    beyond = f" contains 99.5% of the values, the largest is {largest:.2g}" if limit < largest else ""
    about = " · ".join(filter(None, (row.note, f"scale {scale}{beyond}")))
    sheet.write(LEFT, top - 0.15, _short(row.method, 80), weight="bold", size=9)
    sheet.write(LEFT, top - 0.31, _short(about, 120), color=FAINT)
    top -= METHOD
    captions = {
        "clean image, true class": label,
        "adversarial image, true class": label,
        "adversarial image, predicted class": adversarial_label,
    }
    colours = {"cmap": "RdBu_r" if signed else "cividis", "vmin": -limit if signed else 0, "vmax": limit}
    for left, one, (name, target) in zip(COLUMNS, maps, captions.items(), strict=True):
        if one is None:
            sheet.write(left, top - 0.13, "adversarial image: same prediction", color=FAINT)
            continue
        sheet.write(left, top - 0.13, name, color=FAINT)
        sheet.write(left, top - 0.28, f"for {_short(target, 34)}")
        shown = sheet.panel(left, top - CAPTION, one, **colours)
    axes = sheet.axes(LEFT + 3 * PANEL + 3 * GAP - 0.10, top - CAPTION - sheet.tall, 0.11, sheet.tall)
    extend = ("both" if signed else "max") if limit < largest else "neither"  # arrows mark values beyond the scale
    bar = sheet.figure.colorbar(shown, cax=axes, extend=extend, extendfrac=0.04)
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
    """The map as H,W, with the channels summed, as in `robustcls.attribution.collapse`."""
    array = _array(values)
    return array.sum(0) if array.ndim == 3 else array


def _amplification(largest: float) -> float:
    """The factor, rounded down to two digits, that makes the largest change half the range: from grey to black or white."""
    if largest == 0:
        return 1.0
    exact = 0.5 / largest
    unit = 10.0 ** (math.floor(math.log10(exact)) - 1)
    return math.floor(exact / unit) * unit


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The magnitude at which the colours end, and the largest magnitude.

    If a few values are so large that all others would look blank, the colours end at the 99.5% quantile of the magnitudes.
    """
    size = np.abs(values[np.isfinite(values)])
    if not size.any():
        return 1.0, 0.0
    largest = float(size.max())
    most = float(np.quantile(size, 0.995))
    return (most if 0 < most < largest / 1.5 else largest), largest
