"""matplotlib figures as inline SVG: the same numbers give the same bytes, and the colours follow the theme of the page."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.transforms import Bbox

from robustcls.reporting.html import Row, piece, table

# Placeholder colours: matplotlib needs hex values, which are replaced in the SVG by the CSS values in _SEEN.
INK, LINE = "#010203", "#010204"
SERIES = ("#010300", "#010301", "#010302", "#010303")
MARKERS, STYLES, DOTTED = "os^v", ("-", "--", "-.", ":"), (0, (2, 2))
_SEEN = {INK: "currentColor", LINE: "var(--line-strong)"} | {c: f"var(--series-{i})" for i, c in enumerate(SERIES)}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "robustcls",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), LINE),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    "axes.axisbelow": True,
    "grid.alpha": 0.5,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
}


class _OnePass(LayoutEngine):
    """Adjust the margins of the axes so that all labels fit, as constrained layout does, but in a fraction of the time."""

    _adjust_compatible, _colorbar_gridspec = True, False
    PAD = 4.0  # points

    def execute(self, fig: Any) -> None:
        fig.subplots_adjust(0.1, 0.1, 0.9, 0.9)
        renderer = fig._get_renderer()
        axes = [one.get_tightbbox(renderer, for_layout_only=True) for one in fig.axes]
        outer = Bbox.union([box for box in axes if box is not None])
        inner, (width, height) = Bbox.union([one.bbox for one in fig.axes]), fig.bbox.size
        pad = self.PAD * fig.dpi / 72
        fig.subplots_adjust(
            left=(pad + inner.x0 - outer.x0) / width,
            bottom=(pad + inner.y0 - outer.y0) / height,
            right=1 - (pad + outer.x1 - inner.x1) / width,
            top=1 - (pad + outer.y1 - inner.y1) / height,
        )


def plot(
    name: str,
    title: str,
    paint: Callable[[Axes], None],
    rows: Sequence[Row],
    *,
    caption: str = "",
    size: tuple[float, float] = (7.4, 3.2),
    grey: Iterable[int] = (),
) -> Markup:
    """Return a figure as HTML, with a folded table of the numbers behind it.

    Args:
        name: name of the figure; all ids in the SVG start with it.
        title: title for screen readers.
        paint: function that draws on the axes.
        rows: rows of the table.
        caption: caption below the figure; the title if empty.
        size: width and height in inches, of 96 CSS pixels at full width.
        grey: indices of the rows to dim.
    """
    data = table(f"Data: {title[:1].lower()}{title[1:]}", rows, grey=grey)
    return piece("figure", name, _draw(name, title, paint, size), caption or title, data)


def _draw(name: str, title: str, paint: Callable[[Axes], None], size: tuple[float, float]) -> Markup:
    with rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about glyphs missing from the font: the browser uses its own font
        figure = Figure(figsize=size, dpi=72)
        figure.set_layout_engine(_OnePass())
        paint(figure.subplots())
        buffer = io.StringIO()
        # savefig would lay out the figure twice.
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'(?:, [^;\"]*)?", "system-ui, sans-serif", svg)
    for colour, seen in _SEEN.items():
        svg = svg.replace(colour, seen)
    view = re.search(r'viewBox="([^"]*)"', svg)
    assert view is not None  # matplotlib always writes one
    return piece("svg", view[1], name, title, Markup(svg[svg.index(">", svg.index("<svg")) + 1 :]))


def rows_of_shares(axes: Axes, names: Sequence[str], label: str, length: int = 22) -> None:
    """Set up the axes with one row for each name, the first on top, and shares in percent from left to right."""
    axes.set_yticks(range(len(names)), [shorten(name, length) for name in reversed(names)])
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlim(-3, 103)
    axes.set_xlabel(label)
    axes.grid(axis="x")


def shares_upwards(axes: Axes, label: str = "accuracy in %", grid: Literal["y", "both"] = "y") -> None:
    """Set up the y axis for shares in percent."""
    axes.set_ylim(-3, 103)
    axes.set_ylabel(label)
    axes.grid(axis=grid)


def legend_above(axes: Axes, y: float = 1.0) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, y), ncols=2)


def beside(axes: Axes, text: str, y: float, **style: Any) -> None:
    """Add a text to the right of the axes. y: its height in data coordinates."""
    where: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(text, (1, y), (4, 0), ha="left", va="center", fontsize=9, **where, **style)


def above(axes: Axes, text: str, x: float, shift: tuple[float, float] = (0, 3), **style: Any) -> None:
    """Add a text above the axes. x: its position in data coordinates; shift: offset in points."""
    where: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(text, (x, 1), shift, fontsize=9, **where, **style)


def shorten(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
