"""Prints the tables of contests, also from older files that `robustcls bench` wrote.

python experiments/contests/tables.py [--markdown] FILE.json
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from robustcls.cli.bench_tables import machine, rates_of, suite_tables
from robustcls.cli.console import markdown, table, wrap

BASELINE = "plain fp32 loop"  # the contestant that all others are compared with
Show = Callable[[Sequence[str], Sequence[Sequence[str]]], str]  # header, rows


def render(result: dict[str, Any], show: Show) -> str:
    """Return the tables of all suites of a result. Raises KeyError if a part is missing."""
    rates = rates_of(result)
    suites = [
        cuda(suite, show, rates.get("bf16", rates["fp32"])) if name == "cuda" else SHOW[name](suite, show)
        for name, suite in result["suites"].items()
    ]
    return "\n\n".join([machine(result), *suites])


def training(suite: dict[str, Any], show: Show) -> str:
    task = suite["task"]
    rows = [
        (
            name,
            row["precision"],
            f"{row['images_per_second']:.0f}",
            _times(row["ratio"]),
            _times(row["ratio_to_torchattacks"]),
            f"{row['share_of_limit']:.0%}",
            f"{row['loss_second_half']:.3f}",
            f"{row['peak_memory_mb']:.0f}",
        )
        for name, row in suite["rows"].items()
    ]
    memory = suite["memory_per_epoch_mb"]
    lines = [
        f"training, {task['arch']}, PGD-{task['steps']}, {task['norm']} {task['eps']}, batch {task['batch_size']}",
        show(("", "prec.", "img/s", "/plain", "/torchattacks", "of limit", "loss", "peak MB"), rows),
        f"validation: {suite['val_seconds']:.2f} s, {suite['val_share']:.1%} of an epoch's {suite['epoch_seconds']:.1f} s "
        f"of updates on {suite['epoch_images']} images",
        f"memory over {len(memory)} epochs: peak {suite['memory_peak_mb']:.0f} MB, "
        f"{suite['memory_growth_mb']:+.1f} MB from the second to the last epoch",
    ]
    if suite["missing"]:
        lines.append(f"not installed: {', '.join(suite['missing'])}")
    return "\n".join(line if "\n" in line else wrap(line) for line in lines)


def attack(suite: dict[str, Any], show: Show) -> str:
    task, subject, rows = suite["task"], suite["subject"], suite["rows"]
    names = {
        "pgd": f"attack, PGD-{task['steps']}",
        "fast": "APGD-CE and targeted APGD",
        "autoattack": "AutoAttack",
        "single": "the attacks of AutoAttack, each alone",
    }
    threads = f"{subject['threads']} thread{'s' * (subject['threads'] != 1)}"
    lines = [
        f"{names[suite['contest']]}, {task['norm']} {task['eps']}, n = {suite['n']}",
        f"{subject['model']['name']} on {subject['data']['name']}, {threads}",
    ]
    if "fp32_limit_seconds" in suite:
        lines.append(f"all samples in fp32 at the rate of the matrix product: {suite['fp32_limit_seconds']:.2f} s")
    head = ("", "prec.", "seconds", "ratio", "robust", "points", "claimed", "peak MB")
    lines.append(show(head, [(name, *_cells(row)) for name, row in rows.items()]))
    clean = next(row["clean_accuracy"] for row in rows.values() if "seconds" in row)
    references = {row["reference"] for row in rows.values()}
    reference = references.pop() if len(references) == 1 else "the same attack of pyautoattack"
    lines.append(f"clean {clean:.1%}; ratio and points: relative to {reference}.")
    lines.append("robust: verified by the bench in fp32, inside ball and box; claimed: by the contestant.")
    for name, row in rows.items():
        if row.get("unverified"):
            lines.append(f"{name}: {row['unverified']} claims do not hold; {row['outside']} images left ball or box")
        if "error" in row:
            lines.append(f"{name}: {row['error']}")
    if suite["missing"]:
        lines.append(f"not installed: {', '.join(suite['missing'])}")
    return "\n".join(line if "\n" in line else wrap(line) for line in lines)


def explanation(suite: dict[str, Any], show: Show) -> str:
    rows = [
        (
            method,
            f"{row['images_per_second']:.1f}",
            f"{row['captum_images_per_second']:.1f}",
            _times(row["ratio"]),
            f"{row['largest_difference']:.0e}",
        )
        for method, row in suite["rows"].items()
    ]
    threads = suite["rounds"]["robustcls"][0]["threads"]
    lines = [
        f"explanation, {suite['model']}, {threads} thread{'s' * (threads != 1)}, images per second",
        show(("", "robustcls", "captum", "ratio", "difference"), rows),
        "captum: called image by image. difference: largest in the first maps, relative to their largest value.",
    ]
    return "\n".join(line if "\n" in line else wrap(line) for line in lines)


def serving(suite: dict[str, Any], show: Show) -> str:
    lines = [suite_tables(suite["about"], suite, show)]
    lines += [wrap(f"left out: {line}") for line in suite["missing"]]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if "seconds" not in row:
        return ("", "failed", "", "", "", "", "")
    return (
        row["precision"],
        f"{row['seconds']:.2f}",
        _times(row["ratio"]),
        f"{row['robust_accuracy']:.1%}",
        "-" if row["points"] is None else f"{row['points']:+.2f}",
        f"{row['claimed_robust_accuracy']:.1%}",
        f"{row['peak_memory_mb']:.0f}",
    )


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def cuda(suite: dict[str, Any], show: Show, rate: float = 0.0) -> str:
    return "\n\n".join(
        part
        for arch, one in suite.items()
        for part in (
            _cuda_training(arch, one["training"], show, rate),
            *_cuda_evaluations(one["evaluation"], show, rate),
        )
        if part
    )


def _cuda_training(arch: str, suite: dict[str, Any], show: Show, rate: float) -> str:
    if not suite.get("rows"):
        return ""
    task = suite["task"]
    rows = [
        (workload if number == 0 else "", name, *_speed_cells(row, rate))
        for workload, named in suite["rows"].items()
        for number, (name, row) in enumerate(named.items())
    ]
    errors = [
        f"{workload}, {name}: {row['error']}"
        for workload, named in suite["rows"].items()
        for name, row in named.items()
        if "error" in row
    ]
    missing = [f"not installed: {', '.join(suite['missing'])}"] if suite["missing"] else []
    head = ("training", "", "prec.", "img/s", "TFLOP/s", "of rate", "ratio", "peak MB")
    lines = [f"training, {arch}, {task['norm']} {task['eps']}, batch {task['batch_size']}", show(head, rows)]
    lines.append(f"ratio: to the {BASELINE}. of rate: share of the rate of the matrix product.")
    return "\n".join(line if "\n" in line else wrap(line) for line in [*lines, *errors, *missing])


def _cuda_evaluations(suite: dict[str, Any], show: Show, rate: float) -> list[str]:
    parts = []
    for workload, contest in suite.items():
        if "error" in contest:
            parts.append(wrap(f"{workload}: {contest['error']}"))
            continue
        needed = [
            f"{name}: {row['flop_per_second'] / 1e12:.2f} TFLOP/s, {row['flop_per_second'] / rate:.0%} of the matrix rate"
            for name, row in contest["rows"].items()
            if row.get("flop_per_second")
        ]
        found = contest["agreement"]
        points = ", ".join(f"{name} {value:+.2f}" for name, value in found["points"].items() if value is not None)
        compiled = ["compiled: includes the time of compilation"] * ("robustcls, compiled" in contest["rows"])
        agreed = f"agreement with exact fp32 within {found['limit']} points: {found['status']}; " + (
            found.get("reason") or f"{points} on {found['n']} samples"
        )
        parts.append("\n".join([attack(contest, show), *(wrap(line) for line in (*needed, *compiled, agreed))]))
    return parts


def _speed_cells(row: dict[str, Any], rate: float) -> tuple[str, ...]:
    if "error" in row:
        return ("failed", "", "", "", "", "")
    return (
        row["precision"],
        f"{row['images_per_second']:.0f}",
        f"{row['flop_per_second'] / 1e12:.2f}",
        f"{row['flop_per_second'] / rate:.0%}",
        _times(row["ratio"]),
        f"{row['peak_memory_mb']:.0f}",
    )


SHOW = {
    "explain": explanation, "serve": serving, "train": training,
    "attack": attack, "fast": attack, "autoattack": attack, "single": attack,
}  # fmt: skip


if __name__ == "__main__":
    *flags, file = sys.argv[1:]
    print(render(json.loads(Path(file).read_text(encoding="utf-8")), markdown if flags else table))
