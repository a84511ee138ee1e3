"""The section Gallery: example images, chosen by the rule that the section states."""

from itertools import groupby

from markupsafe import Markup

from robustcls.evaluation.measures.gallery.record import Example, Map
from robustcls.reporting.context import Context, Model, sentence
from robustcls.reporting.html import derived, fill_file, piece
from robustcls.reporting.images import is_empty, show_image, show_maps, show_perturbation
from robustcls.reporting.missing import reasons_of
from robustcls.results.records import Sample

OUTCOMES = {"broken": "broken", "survived": "survived", "clean_error": "misclassified without attack"}
ROLES = {
    "clean": "clean image, map for the true class",
    "adversarial": "adversarial image, map for the true class",
    "adversarial_class": "adversarial image, map for the predicted class",
}
Shown = dict[str, object]


def gallery(context: Context) -> Markup:
    """The clean image, perturbation, adversarial image, attribution maps and confidences of each example."""
    parts = [_part(model, context.quality) for model in context.models]
    return fill_file(
        "gallery/section.html",
        context,
        parts=parts,
        absent=reasons_of(context, "gallery"),
        filters=_filters(context) if any(parts) else None,
        withheld=any(parts) and all(part["withheld"] for part in parts if part),
    )


def _part(model: Model, quality: int | None) -> Shown | None:
    found = model.evaluation.gallery
    if found is None or not found.examples:
        return None
    places = {sample.index: i for i, sample in enumerate(model.evaluation.samples)}
    examples = [_show(model, i, one, places.get(one.index), quality) for i, one in enumerate(found.examples)]
    withheld = all(is_empty(example.clean) for example in found.examples)
    return {"rule": sentence(found.rule), "examples": examples, "withheld": withheld}


def _show(model: Model, i: int, example: Example, place: int | None, quality: int | None) -> Shown:
    sample = model.evaluation.samples[place] if place is not None else None
    path = f"gallery.examples.{i}"
    name = model.class_name(sample.label) if sample is not None else "label not recorded"
    return {
        "example": example,
        "sample": sample,
        "path": path,
        "sample_path": f"samples.{place}",
        "name": name,
        "outcome": OUTCOMES.get(example.outcome, example.outcome),
        "rows": [] if is_empty(example.clean) else _rows(model, example, sample, name, quality),
    }


def _rows(model: Model, example: Example, sample: Sample | None, name: str, quality: int | None) -> list[Shown]:
    sides, before = example.clean.shape[1:], f"Sample {example.index}, {name}"
    change, factor = show_perturbation(example.perturbation, quality)
    clean, attacked = "clean image", "strongest attempt" if example.outcome == "survived" else "adversarial image"
    if sample is not None:
        clean += f", predicted: {model.class_name(sample.clean)}"
        attacked += f", predicted: {model.class_name(sample.adversarial)}"
    amplified, marked = (piece("amplified", one) for one in (factor, derived("factor", factor, "d")))
    shown = [
        _image(show_image(example.clean, quality), sides, before, clean),
        _image(change, sides, before, amplified, marked),
        _image(show_image(example.adversarial, quality), sides, before, attacked),
    ]
    by_method = groupby(sorted(example.maps, key=lambda one: one.method), key=lambda one: one.method)
    return [
        {"label": f"Images of sample {example.index}", "shown": shown, "scale": ""},
        *(_map_row(model, example, method, list(maps), quality) for method, maps in by_method),
    ]


def _map_row(model: Model, example: Example, method: str, maps: list[Map], quality: int | None) -> Shown:
    maps.sort(key=lambda one: list(ROLES).index(one.role) if one.role in ROLES else len(ROLES))
    uris, limit, signed = show_maps([one.values for one in maps], quality)
    shown = []
    for one, uri in zip(maps, uris, strict=True):
        note = f" ({one.note})" if one.note else ""
        caption = f"{ROLES.get(one.role, one.role)}: {model.class_name(one.target)}{note}"
        shown.append(_image(uri, one.values.shape, f"Sample {example.index}, {method}", caption))
    ends = derived("map low", -limit if signed else 0.0, ".3g"), derived("map high", limit, ".3g")
    return {
        "label": f"Maps of sample {example.index} by {method}",
        "shown": shown,
        "scale": piece("map_scale", method, *ends, "guided" in method),
        "ramp": "signed" if signed else "magnitude",
    }


def _image(uri: str, sides: list[int], before: str, text: str, marked: Markup | None = None) -> Shown:
    """The values of an image with its caption and alternative text. marked: the caption as HTML, if it is more than text."""
    return {"uri": uri, "height": sides[0], "width": sides[1], "caption": marked or text, "alt": f"{before}: {text}"}


def _filters(context: Context) -> list[tuple[str, list[tuple[object, str]]]]:
    """The choices of the filters that match at least one example: (name, [(value, text)])."""
    choices: dict[str, dict[object, str]] = {"class": {}, "outcome": {}, "attack": {}}
    for model in context.models:
        samples = {sample.index: sample for sample in model.evaluation.samples}
        for example in model.evaluation.gallery.examples if model.evaluation.gallery else []:
            choices["outcome"][example.outcome] = OUTCOMES.get(example.outcome, example.outcome)
            if sample := samples.get(example.index):
                choices["class"][sample.label] = model.class_name(sample.label)
                if sample.broken_by:
                    choices["attack"][sample.broken_by] = sample.broken_by
    return [(name, sorted(some.items(), key=lambda one: (str(type(one[0])), one[0]))) for name, some in choices.items()]
