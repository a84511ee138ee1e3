"""What runs: the exported file beside its original."""

from typing import Any

from markupsafe import Markup

from robustcls.evaluation.measures.artefact.record import Artefact
from robustcls.reporting.context import Context, Model, sentence
from robustcls.reporting.html import Row, fill_file, lacking, table
from robustcls.reporting.missing import missing_of

SETS = {
    "clean": "Clean images", "white_box": "White box", "transfer": "Transfer from the other",
    "square": "White box, then Square", "union": "Union of all",
}  # fmt: skip


def artefact(context: Context) -> Markup:
    """Size, speed, agreement and robust accuracy of an exported file and of the model that it was made of."""
    return fill_file(
        "artefact/section.html",
        context,
        models=[model for model in context.models if model.evaluation.artefact is not None],
        verdict=verdict,
        sizes=_sizes,
        speeds=_speeds,
        robust=_robust,
        labels=_labels,
        sentence=sentence,
        missing=missing_of(context, "artefact"),
    )


def verdict(one: Artefact) -> str:
    """What the file is worth beside its original, in a sentence or two."""
    what = f"A file rounded by {one.quantization}" if one.quantization else "A file in floating point"
    if one.agreement is None or one.robust_difference is None or one.file is None:
        return f"{what}; its original was not measured beside it."
    kept = one.agreement.same / one.agreement.n
    low, high = (100 * end for end in one.robust_ci95)
    change = f"{100 * one.robust_difference:+.1f} points [{low:+.1f}, {high:+.1f}]"
    said = f"{what} keeps {kept:.1%} of the labels; under the union of attacks its robust accuracy differs by {change}"
    if low <= 0 <= high:
        said += ", which these samples do not tell from none"
    said += "."
    if one.masked and one.masked > 2 * (one.masked_original or 0):
        said += (
            f" Transfer or Square broke {one.masked} samples that its white box left: "
            f"without them it would look {100 * one.masked / one.agreement.n:.1f} points more robust than it is."
        )
    return said


def _record(model: Model) -> Artefact:
    found = model.evaluation.artefact
    assert found is not None
    return found


def _sizes(model: Model) -> Markup:
    names = {"bytes": "Bytes", "parameters": "Parameters", "macs": "Multiply-adds per image"}
    rows: list[Row] = []
    runtime = _record(model).runtime
    for name, shown in names.items():
        known = getattr(runtime, f"original_{name}") is not None
        rows.append({
            "": shown,
            "File": model.n(f"artefact.runtime.{name}", ",d"),
            "Original": model.n(f"artefact.runtime.original_{name}", ",d") if known else lacking("not at hand"),
        })  # fmt: skip
    return table(f"Size of {model.name} and its original", rows, sortable=False)


def _speeds(model: Model) -> Markup:
    rows: list[Row] = []
    for i, one in enumerate(_record(model).runtime.latency):
        at = f"artefact.runtime.latency.{i}."
        row: dict[str, Any] = {"Batch": model.n(at + "batch", "d"), "Runs": model.n(at + "runs", "d")}
        for name, shown in (("", "File"), ("original_", "Original")):
            for part, percentile in (("p50", "median"), ("p99", "99th percentile")):
                known = getattr(one, name + part) is not None
                row[f"{shown}, {percentile}, ms"] = (
                    model.n(at + name + part, ".2f") if known else lacking("not at hand")
                )
        rows.append(row)
    return table(f"Time of {model.name} on one thread by onnxruntime, of its original by PyTorch", rows, sortable=False)


def _robust(model: Model) -> Markup:
    rows: list[Row] = []
    for name, shown in SETS.items():
        row: dict[str, Any] = {"Attacked by": shown}
        for side, title in (("file", "File"), ("original", "Original")):
            row[title] = model.interval(f"artefact.{side}.{name}")
        rows.append(row)
    for name, shown in (("ece", "Calibration error, clean"), ("ece_adversarial", "Calibration error under attack")):
        rows.append(
            {"Attacked by": shown}
            | {title: model.n(f"artefact.{side}.{name}", ".3f") for side, title in (("file", "File"), ("original", "Original"))}
        )  # fmt: skip
    return table(f"Accuracy of {model.name} and its original under the same sets of attacks", rows, sortable=False)


def _labels(model: Model) -> Markup:
    found = _record(model).agreement
    if found is None:
        return Markup()
    rows: list[Row] = [
        {"Class": name, "Right before, wrong in the file": str(found.lost.get(name, 0)),
         "Wrong before, right in the file": str(found.gained.get(name, 0))}
        for name in sorted({*found.lost, *found.gained})
    ]  # fmt: skip
    return table(f"Labels that {model.name} changed, by class", rows, sortable=False) if rows else Markup()
