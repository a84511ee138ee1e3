"""The images themselves, drawn by a printed rule."""

from itertools import groupby

from markupsafe import Markup

from robustcls.evaluation.measures.gallery.record import Example, Map
from robustcls.reporting.context import Context
from robustcls.reporting.html import derived, fill_file
from robustcls.reporting.images import is_empty, show_image, show_maps, show_perturbation
from robustcls.reporting.missing import reasons_of
from robustcls.results.records import Sample

ORDER, TITLE = 110, "Gallery"

OUTCOMES = {"broken": "broken", "survived": "survived", "clean_error": "clean error"}
ROLES = {
    "clean": "map of the clean image",
    "adversarial": "map of the adversarial image, same class",
    "adversarial_class": "map for the adversarial class",
}


def gallery(context: Context) -> Markup:
    """Clean image, perturbation, adversarial image and attribution maps of each example, with the confidences."""
    parts = [_part(context, model) for model in range(len(context.evaluations))]
    galleries = [one.gallery for one in context.evaluations if one.gallery is not None]
    examples = [example for one in galleries for example in one.examples]
    return fill_file(
        "gallery.html",
        context,
        parts=parts,
        absent=reasons_of(context, "gallery"),
        filters=_filters(context) if examples else None,
        withheld=bool(examples) and all(is_empty(example.clean) for example in examples),
    )


def _part(context: Context, model: int) -> dict[str, object] | None:
    found = context.evaluations[model].gallery
    if found is None or not found.examples:
        return None
    places = {sample.index: i for i, sample in enumerate(context.evaluations[model].samples)}
    examples = [
        _show(context, model, i, example, places.get(example.index)) for i, example in enumerate(found.examples)
    ]
    rule = found.rule[:1].upper() + found.rule[1:]
    withheld = all(is_empty(example.clean) for example in found.examples)
    return {"rule": rule if rule.endswith(".") else rule + ".", "examples": examples, "withheld": withheld}


def _show(context: Context, model: int, i: int, example: Example, place: int | None) -> dict[str, object]:
    sample = context.evaluations[model].samples[place] if place is not None else None
    path = f"gallery.examples.{i}"
    name = context.class_name(model, sample.label) if sample is not None else "label not recorded"
    tops = [
        ("Clean image", _top(context, model, f"{path}.clean_top", example.clean_top)),
        ("Adversarial image", _top(context, model, f"{path}.adversarial_top", example.adversarial_top)),
    ]
    return {
        "example": example,
        "path": path,
        "sample_path": f"samples.{place}" if sample is not None else "",
        "distance": sample.distance if sample is not None else None,
        "file": sample.file if sample is not None else None,
        "label": sample.label if sample is not None else "",
        "label_name": name,
        "attack": (sample.broken_by or "") if sample is not None else "",
        "outcome": OUTCOMES.get(example.outcome, example.outcome),
        "rows": [] if is_empty(example.clean) else _rows(context, model, example, sample, name),
        "tops": [(title, top) for title, top in tops if top],
    }


def _top(context: Context, model: int, path: str, top: list[list[float]]) -> list[dict[str, object]]:
    return [
        {"name": context.class_name(model, int(label)), "share": share, "path": f"{path}.{i}.1"}
        for i, (label, share) in enumerate(top[:3])
    ]


def _rows(context: Context, model: int, example: Example, sample: Sample | None, name: str) -> list[dict[str, object]]:
    quality, sides = context.quality, example.clean.shape[1:]
    change, factor = show_perturbation(example.perturbation, quality)
    seen = context.class_name(model, sample.clean) if sample else ""
    after = context.class_name(model, sample.adversarial) if sample else ""
    attempt = "strongest attempt" if example.outcome == "survived" else "adversarial"
    images = [
        _image(show_image(example.clean, quality), sides, f"clean, seen as {seen}" if seen else "clean"),
        _image(change, sides, Markup("perturbation × {}, grey is zero").format(derived("factor", factor, "d"))),
        _image(show_image(example.adversarial, quality), sides, f"{attempt}, seen as {after}" if after else attempt),
    ]
    for image in images:
        image["alt"] = f"Sample {example.index}, {name}: {_plain(image['caption'])}"
    rows: list[dict[str, object]] = [{"label": f"Images of sample {example.index}", "shown": images, "scale": ""}]
    by_method = groupby(sorted(example.maps, key=lambda one: one.method), key=lambda one: one.method)
    rows += [_map_row(context, model, example, method, list(maps)) for method, maps in by_method]
    return rows


def _map_row(context: Context, model: int, example: Example, method: str, maps: list[Map]) -> dict[str, object]:
    maps.sort(key=lambda one: list(ROLES).index(one.role) if one.role in ROLES else len(ROLES))
    uris, limit, signed = show_maps([one.values for one in maps], context.quality)
    shown = []
    for one, uri in zip(maps, uris, strict=True):
        target = context.class_name(model, one.target)
        caption = f"{ROLES.get(one.role, one.role)}: {target}" + (f" ({one.note})" if one.note else "")
        shown.append(_image(uri, one.values.shape, caption) | {"alt": f"Sample {example.index}, {method}: {caption}"})
    low, high = derived("map low", -limit if signed else 0.0, ".3g"), derived("map high", limit, ".3g")
    warning = "; fails the sanity checks: shows edges, not reasons" if "guided" in method else ""
    return {
        "label": f"Maps of sample {example.index} by {method}",
        "shown": shown,
        "scale": Markup("{}: one scale for the row, from {} to {}{}").format(method, low, high, warning),
        "ramp": "signed" if signed else "magnitude",
    }


def _image(uri: str, sides: list[int], caption: str | Markup) -> dict[str, object]:
    return {"uri": uri, "height": sides[0], "width": sides[1], "caption": caption}


def _plain(caption: object) -> str:
    return Markup(caption).striptags() if isinstance(caption, Markup) else str(caption)


def _filters(context: Context) -> list[tuple[str, str, list[tuple[object, str]]]]:
    """(name, label, [(value, text)]) of the choices that would leave something."""
    labels: dict[object, str] = {}
    outcomes: dict[object, str] = {}
    attacks: dict[object, str] = {}
    for model, evaluation in enumerate(context.evaluations):
        samples = {sample.index: sample for sample in evaluation.samples}
        for example in evaluation.gallery.examples if evaluation.gallery else []:
            outcomes[example.outcome] = OUTCOMES.get(example.outcome, example.outcome)
            if sample := samples.get(example.index):
                labels[sample.label] = context.class_name(model, sample.label)
                if sample.broken_by:
                    attacks[sample.broken_by] = sample.broken_by
    choices = (("class", "Class", labels), ("outcome", "Outcome", outcomes), ("attack", "Attack", attacks))
    return [
        (name, label, sorted(values.items(), key=lambda item: (str(type(item[0])), item[0])))
        for name, label, values in choices
    ]
