"""The tables of `robustcls bench`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from robustcls.cli.console import wrap

Show = Callable[[Sequence[str], Sequence[Sequence[str]]], str]  # header, rows
COLUMNS = {  # key of a row -> heading and format; a table shows the columns that its rows have
    "precision": ("prec.", "{}"),
    "seconds": ("seconds", "{:.2f}"),
    "images_per_second": ("img/s", "{:.1f}"),
    "flop_per_second": ("GFLOP/s", "{:.0f}"),
    "share_of_limit": ("of limit", "{:.0%}"),
    "requests_per_second": ("req/s", "{:.0f}"),
    "sustained_per_second": ("sustained", "{:.0f}"),
    "ratio": ("ratio", "{:.2f}x"),
    "ratio_to_onnxruntime": ("to ORT", "{:.2f}x"),
    "robust_accuracy": ("robust", "{:.1%}"),
    "peak_memory_mb": ("peak MB", "{:.0f}"),
    "of_eager": ("of eager", "{:.2f}"),
    "size_mb": ("file MB", "{:.2f}"),
    "process_mb": ("process MB", "{:.0f}"),
}
FURTHER: dict[str, dict[str, tuple[str, str]]] = {  # further tables, keyed by the line printed above them
    "milliseconds of a batch, by its size:": {
        f"p{part}_ms_{batch}": (f"p{part}, {batch}", "{:.2f}") for batch in (1, 8, 32) for part in (50, 99)
    },
    "milliseconds, at half load, and one request after another beside onnxruntime alone:": {
        "p50_ms": ("p50", "{:.2f}"),
        "p99_ms": ("p99", "{:.2f}"),
        "single_ms": ("one", "{:.2f}"),
        "onnxruntime_ms": ("ORT", "{:.2f}"),
        "overhead_ms": ("overhead", "{:.2f}"),
    },
    "at twice the capacity, answers in time as a share of it; milliseconds; errors in all:": {
        "of_capacity": ("in time", "{:.0%}"),
        "accepted_p99_ms": ("p99", "{:.0f}"),
        "refused": ("refused", "{:.0%}"),
        "refusal_p50_ms": ("p50", "{:.1f}"),
        "refusal_p99_ms": ("p99", "{:.1f}"),
        "errors": ("errors", "{:.0f}"),
    },
    "seconds to the first answer; MB then and after load, of all its processes:": {
        "ready_seconds": ("ready", "{:.2f}"),
        "ready_rss_mb": ("RSS", "{:.0f}"),
        "ready_pss_mb": ("PSS", "{:.0f}"),
        "rss_mb": ("RSS later", "{:.0f}"),
        "pss_mb": ("PSS later", "{:.0f}"),
    },
}


def render(result: dict[str, Any], show: Show) -> str:
    """Return the tables of all suites of a result. Raises KeyError if a part is missing."""
    return "\n\n".join([machine(result), *(suite_tables(*suite, show) for suite in _suites(result["suites"]))])


def machine(result: dict[str, Any]) -> str:
    """Return lines with the device, the rate of a matrix product and the memory bandwidth."""
    product = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in rates_of(result).items())
    copied = f"\ncopy: {result['copy_bandwidth'] / 1e9:.0f} GB/s read and written" if "copy_bandwidth" in result else ""
    return f"{result['device']}\nmatrix product: {product}{copied}"


def rates_of(result: dict[str, Any]) -> dict[str, float]:
    """Return the matrix rate of each precision: the larger one, if it was measured at the beginning and at the end."""
    late = result.get("matrix_rates_at_the_end", {})
    return {name: max(rate, late.get(name, 0.0)) for name, rate in result["matrix_rates"].items()}


def _suites(parts: dict[str, Any], title: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every nested part that has rows or an error, with a title made of the keys that lead to it."""
    for name, part in parts.items():
        if isinstance(part, dict):
            path = f"{title}, {name}" if title else name
            if "rows" in part or "error" in part:
                yield part.get("about", path), part
            else:
                yield from _suites(part, path)


def suite_tables(title: str, suite: dict[str, Any], show: Show) -> str:
    """Return the tables of a suite and the lines between them."""
    if "error" in suite:
        return wrap(f"{title}: {suite['error']}")
    rows = dict(_flat(suite["rows"]))
    lines = [_table(rows, COLUMNS, show)]
    for above, columns in FURTHER.items():
        if any(key in row for row in rows.values() for key in columns):
            lines += [above, _table(rows, columns, show)]
    lines += [f"{name}: {row['error']}" for name, row in rows.items() if "error" in row]
    for workload, result in suite.get("agreement", {}).items():
        if isinstance(result, dict) and "status" in result:
            points = ", ".join(f"{name} {value:+.2f}" for name, value in result["points"].items() if value is not None)
            words = result.get("reason") or f"{points} on {result['n']} samples"
            lines.append(
                f"{workload}: agreement with exact fp32 within {result['limit']} points: {result['status']}; {words}"
            )
    return "\n".join(line if "\n" in line else wrap(line) for line in [title, *lines])


def _table(rows: dict[str, dict[str, Any]], columns: dict[str, tuple[str, str]], show: Show) -> str:
    keys = [key for key in columns if any(key in row for row in rows.values())]
    cells = [(name, *(_cell(columns[key][1], key, row) for key in keys)) for name, row in rows.items()]
    return show(["", *(columns[key][0] for key in keys)], cells)


def _flat(rows: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a table. Older results of contests have a further level, one per workload."""
    for name, row in rows.items():
        if any(isinstance(value, dict) for value in row.values()):
            yield from ((f"{name}, {variant}", nested) for variant, nested in row.items())
        else:
            yield name, row


def _cell(form: str, key: str, row: dict[str, Any]) -> str:
    if row.get(key) is None:
        return "failed" if "error" in row and key == "precision" else ""
    return form.format(row[key] / 1e9 if key == "flop_per_second" else row[key])
