"""`robustcls bench`."""

import json
from pathlib import Path
from typing import Any

import click

from robustcls.bench.config import BenchConfig
from robustcls.cli.console import note, table, wrap
from robustcls.cli.options import build, config_option, options
from robustcls.core.files import check_writable, replacing


@click.command("bench")
@config_option
@options(BenchConfig)
def command(flags: dict, config_file: str | None) -> None:
    """Measure the speed of training, attack and explanation on this machine, beside a plain fp32 loop and the peers installed.

    Contestants run one after another in processes of their own, in rounds; ratios are taken within a round. The limit is the
    arithmetic of the network over the rate of a large matrix product, measured here.

    The training suite also measures what validation takes of an epoch, at this accuracy and at most, and memory over epochs.

    The attack suite has three contests: pgd, at equal steps (the default); autoattack, the suites standard and fast beside
    AutoAttack's own code; single, each attack of AutoAttack beside the same attack of that code. All examples are judged
    again by the bench.

    The explain suite gives each attribution method's images per second, beside captum called image by image.

    \b
      robustcls bench
      robustcls bench --suite train --arch "vgg16(width=1.0)" --rounds 5
      robustcls bench --suite attack --model ckpt.pt --n 512 --out bench.json
      robustcls bench --suite explain --model ckpt.pt
      robustcls bench --suite attack --contest all --model mylab.models:net
    """
    config = build(BenchConfig, flags, config_file)
    if config.out:
        check_writable(config.out)

    from robustcls.bench.contest import run_bench

    result = run_bench(config, lambda text: note(text, config.quiet))
    click.echo("\n\n".join([machine(result), *(SHOW[name](suite) for name, suite in result["suites"].items())]))
    if config.out:
        with replacing(Path(config.out)) as part:
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        click.echo(f"\n{config.out}")


def machine(result: dict[str, Any]) -> str:
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in result["matrix_rates"].items())
    return f"{result['device']}\nmatrix product: {rates}"


def training(suite: dict[str, Any]) -> str:
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
        table(("", "prec.", "img/s", "/plain", "/torchattacks", "of limit", "loss", "peak MB"), rows),
        f"validation: {suite['val_seconds']:.2f} s, {suite['val_share']:.1%} of an epoch's {suite['epoch_seconds']:.1f} s "
        f"of updates on {suite['epoch_images']} images",
        f"memory over {len(memory)} epochs: peak {suite['memory_peak_mb']:.0f} MB, "
        f"{suite['memory_growth_mb']:+.1f} MB from the second to the last",
    ]
    if suite["missing"]:
        lines.append(f"not installed: {', '.join(suite['missing'])}")
    return "\n".join(line if "\n" in line else wrap(line) for line in lines)


def attack(suite: dict[str, Any]) -> str:
    task, subject, rows = suite["task"], suite["subject"], suite["rows"]
    names = {
        "pgd": f"attack, PGD-{task['steps']}",
        "autoattack": "AutoAttack",
        "single": "the attacks of AutoAttack, each alone",
    }
    threads = f"{subject['threads']} thread{'s' * (subject['threads'] != 1)}"
    lines = [
        f"{names[suite['contest']]}, {task['norm']} {task['eps']}, n = {suite['n']}",
        f"{subject['model']['name']} on {subject['data']['name']}, {threads}",
    ]
    if "fp32_limit_seconds" in suite:
        lines.append(f"all samples in fp32 at the matrix rate: {suite['fp32_limit_seconds']:.2f} s")
    head = ("", "prec.", "seconds", "ratio", "robust", "points", "claimed", "peak MB")
    lines.append(table(head, [(name, *_cells(row)) for name, row in rows.items()]))
    clean = next(row["clean_accuracy"] for row in rows.values() if "seconds" in row)
    references = {row["reference"] for row in rows.values()}
    reference = references.pop() if len(references) == 1 else "pyautoattack's of the same attack"
    lines.append(f"clean {clean:.1%}; ratio and points are to {reference}.")
    lines.append("robust: judged by the bench in fp32, in ball and box; claimed: by the contestant.")
    for name, row in rows.items():
        if row.get("unverified"):
            lines.append(f"{name}: {row['unverified']} claims do not hold; {row['outside']} images left ball or box")
        if "error" in row:
            lines.append(f"{name}: {row['error']}")
    if suite["missing"]:
        lines.append(f"not installed: {', '.join(suite['missing'])}")
    return "\n".join(line if "\n" in line else wrap(line) for line in lines)


def explanation(suite: dict[str, Any]) -> str:
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
        table(("", "robustcls", "captum", "ratio", "difference"), rows),
        "captum: called image by image. difference: the largest of the first maps, of their largest value.",
    ]
    return "\n".join(line if "\n" in line else wrap(line) for line in lines)


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


SHOW = {"explain": explanation, "train": training, "attack": attack, "autoattack": attack, "single": attack}
