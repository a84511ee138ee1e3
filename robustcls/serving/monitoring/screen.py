"""Show the state of a service in lines of 80 columns."""

import textwrap
from collections.abc import Iterator, Mapping

from robustcls.serving.monitoring.reading import Histogram
from robustcls.serving.monitoring.state import Model, State

COLUMNS, INDENT = 80, 13
MOST = 8  # largest number of classes shown
KEPT = "\u00a0"  # a space at which lines are not broken


def screen(url: str, state: State, seconds: float | None = None) -> str:
    """Return the text of the screen. seconds: time span of the counters; None if they count from the start of the service."""
    lines = [_clip(f"{url}  {'ready' if state.ready else 'NOT READY'}", COLUMNS)]
    lines += wrapped(_head("traffic"), _traffic(state, seconds))
    lines += wrapped(_head("latency"), f"{_quantiles(state.requests)} of a request")
    lines += wrapped(_head("refused"), _shares(state.rejected, state.requests.count))
    for model in state.models:
        lines += [
            "",
            _clip(f"{model.name}  version {model.version}  {model.quantization or 'floating point'}", COLUMNS),
        ]
        lines += [line for name, text in _model(model) for line in wrapped(_head(name), text)]
    return "\n".join(lines)


def _traffic(state: State, seconds: float | None) -> str:
    number = state.requests.count
    over = "since its start" if seconds is None else f"in {seconds:.0f} s, {number / max(seconds, 1e-9):.1f}/s"
    failed = f"{state.failed:,.0f} failed"
    if state.error_share is not None:
        failed += f" ({state.error_share:.2%})"
    return f"{number:,.0f} requests {over}, {failed}, {state.inflight:,.0f} in flight"


def _model(model: Model) -> Iterator[tuple[str, str]]:
    yield "file", f"sha256 {model.sha256[:12]}, {'' if model.evaluated else 'NO '}evaluation of this file"
    for one in model.robust:
        yield "robust", f"{one.accuracy:.1%} [{one.lower:.1%}, {one.upper:.1%}] under {one.norm} {one.eps}"
    reference = "not known" if model.reference is None else f"{model.reference:.2g}"
    yield "reference", f"largest difference of a logit: {reference}"
    yield "queue", f"{_number(model.queued)} of {_number(model.capacity)} requests"
    mean = "" if model.batch.mean is None else f", {model.batch.mean:.1f} images on average"
    yield "batches", f"{model.batch.count:,.0f}{mean}; computed in {_quantiles(model.inference)}"
    yield "predicted", _shares(model.predictions, model.images)
    if (mean_confidence := model.confidence.mean) is not None:
        yield "confidence", f"{mean_confidence:.3f} on average, median about {model.confidence.quantile(0.5):.2f}"
    yield "drift", _drift(model)
    yield "restarts", f"{_number(model.restarts)} of workers"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"


def _drift(model: Model) -> str:
    if model.threshold is None:
        return "not monitored"
    bad, every = model.windows.get("true", 0.0), sum(model.windows.values())
    windows = f"{bad:,.0f} of {every:,.0f} windows had drifted"
    if not model.drift:
        return f"no full window yet, threshold {model.threshold:.3f}"
    ranked = sorted(model.drift.items(), key=lambda one: -one[1])
    shown = ", ".join(
        _item(name, f"{value:.3f}{' !' if name in model.drifted else ''}") for name, value in ranked[:MOST]
    )
    return f"{shown}{_rest(len(ranked))}; threshold {model.threshold:.3f}; {windows}"


def _shares(numbers: Mapping[str, float], total: float) -> str:
    """The shares as text, the largest first: `cat: 60.0%, dog: 40.0%`."""
    ranked = sorted(((name, number) for name, number in numbers.items() if number), key=lambda one: -one[1])
    if not ranked:
        return "none"
    shown = ", ".join(
        _item(name, f"{number / total:.1%}" if total else f"{number:,.0f}") for name, number in ranked[:MOST]
    )
    return shown + _rest(len(ranked))


def _item(name: str, text: str) -> str:
    """`name: text`, without a place for a line break."""
    return f"{name}: {text}".replace(" ", KEPT)


def _rest(number: int) -> str:
    return f", {number - MOST} more" if number > MOST else ""


def _quantiles(found: Histogram) -> str:
    p50, p99 = found.quantile(0.5), found.quantile(0.99)
    return "-" if p50 is None or p99 is None else f"p50 {1000 * p50:.3g} ms, p99 {1000 * p99:.3g} ms"


def wrapped(head: str, text: str) -> list[str]:
    """Wrap the text to lines that fit, the first after the head, the others indented to it."""
    lines = textwrap.wrap(
        _plain(text), COLUMNS, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )
    return [line.replace(KEPT, " ") for line in lines]


def _head(name: str) -> str:
    return f"  {name}".ljust(INDENT)


def _clip(text: str, most: int) -> str:
    text = _plain(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _plain(text: str) -> str:
    """The text without control characters, which could move the cursor of a terminal: names come from the network."""
    return "".join(letter if letter.isprintable() or letter == KEPT else "?" for letter in text)
