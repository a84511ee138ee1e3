"""Whether the attribution maps say anything about the model: checks that a map must pass, and measures of its quality."""

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import badge, fill_file, number, table
from robustcls.reporting.missing import reasons_of
from robustcls.reporting.sections.stability import FEW, NOT_MEASURED, show_spread
from robustcls.results.records import MethodMeasures

ORDER, TITLE = 130, "Attribution sanity"


# What is checked of every method, with the reason that is shown where it was not.
EXPECTED = {
    "finite_maps": "whether the maps had values that are not finite was not looked at",
    "completeness": "whether the map's values add up to the change of the logit was not checked",
    "parameter_randomisation": "maps of the model were not compared with maps of a model with shuffled weights",
    "random_logit": "maps of the class were not compared with maps of another class",
    "repeatability": "the maps were not made twice with the same seed",
    "insertion": "pixels were not put in by the map's order and by its displaced copies'",
    "deletion": "pixels were not taken out by the map's order and by its displaced copies'",
}
# What a failure means, and no more than that.
FAILED = {
    "finite_maps": "its maps had values that are not finite, which count as 0",
    "completeness": "its values do not add up to the change of the logit",
    "parameter_randomisation": "its maps change too little when the model's weights are shuffled",
    "random_logit": "its maps change too little when another class is explained",
    "repeatability": "its maps differ when they are made again with the same seed",
    "insertion": "putting in the pixels that it ranks first does no better than the same map at random other places",
    "deletion": "taking out the pixels that it ranks first does no better than the same map at random other places",
}
QUALITY = {  # measure: (name, how to read it)
    "infidelity": (
        "Infidelity",
        "share of the logit's falls, as random halves of the image are blanked, that the map does not account for; 0 is best",
    ),
    "gini": ("Gini index", "how concentrated the map is: 0 is spread evenly, 1 is all on one pixel; neither is better"),
    "insertion": (
        "Insertion",
        "mean probability of the class while pixels are put in, the highest first; good where above its displaced copies'",
    ),
    "deletion": (
        "Deletion",
        "mean probability of the class while pixels are taken out, the highest first; good where below its displaced copies'",
    ),
    "completeness_gap": (
        "Completeness gap",
        "how far the map's sum misses the change of the logit, as a share of it; 0 is exact",
    ),
    "reseeded": (
        "Likeness under another seed",
        "rank correlation with the map of other random draws; 1 where none are drawn",
    ),
}
BADGED = "fails the sanity checks"  # in the note of a method that is known to, whatever was measured here


def sanity(context: Context) -> Markup:
    """Each method's checks and quality measures; a method that fails a check is named."""
    parts = [_part(context, model) for model in range(len(context.evaluations))]
    return fill_file("sanity.html", context, parts=parts, absent=reasons_of(context, "sanity"), few=FEW)


def _part(context: Context, model: int) -> dict[str, object] | None:
    found = context.evaluations[model].explanations
    if found is None or not found.methods:
        return None
    methods = [
        {
            "name": method.method,
            "note": method.note,
            "badged": BADGED in method.note,
            "failing": _failing(method),
            "checks": _checks(context, model, i, method),
            "quality": _quality(context, model, i, method) if method.quality else None,
        }
        for i, method in enumerate(found.methods)
    ]
    return {"found": found, "methods": methods}


def _failing(method: MethodMeasures) -> str:
    """Which checks fail and what that means; "" where none does."""
    failed = [check.id for check in method.checks if check.status == "fail"]
    if not failed:
        return ""
    meaning = "; ".join(FAILED[key] for key in failed if key in FAILED)
    return f"fails {', '.join(failed)}" + (f": {meaning}." if meaning else ".")


def _checks(context: Context, model: int, place: int, method: MethodMeasures) -> Markup:
    none = Markup('<span class="none">none</span>')
    code = Markup("<code>{}</code>")
    rows: list[list[Markup | str]] = []
    for i, check in enumerate(method.checks):
        at = f"explanations.methods.{place}.checks.{i}"
        threshold = none if check.threshold is None else number(context, model, f"{at}.threshold", ".4g")
        measured = number(context, model, f"{at}.measured", ".4g")
        rows.append([badge(check.status), code.format(check.id), measured, threshold, check.message])
    there = {check.id for check in method.checks}
    rows += [
        [badge("not_run"), code.format(key), NOT_MEASURED, none, reason]
        for key, reason in EXPECTED.items()
        if key not in there
    ]
    heads = ["Status", "Check", "Measured", "Threshold", "What it means"]
    return table(f"Checks of the maps of {context.names[model]} by {method.method}", heads, rows)


def _quality(context: Context, model: int, place: int, method: MethodMeasures) -> Markup:
    at = f"explanations.methods.{place}.quality"
    rows = []
    for key, (name, reading) in QUALITY.items():
        spread, control = method.quality.get(key), method.quality.get(f"{key}_random")
        rows.append(
            [
                name,
                NOT_MEASURED if spread is None else show_spread(context, model, f"{at}.{key}", "#.3g", spread.n),
                _control(context, model, f"{at}.{key}_random", key, spread.n if spread else None, control is not None),
                NOT_MEASURED if spread is None else number(context, model, f"{at}.{key}.n", ",d"),
                reading,
            ]
        )
    heads = ["Measure", "Median (quartiles)", "Displaced map", "n", "How to read it"]
    return table(f"Quality of the maps of {context.names[model]} by {method.method}", heads, rows)


def _control(context: Context, model: int, path: str, key: str, n: int | None, held: bool) -> Markup:
    if key not in ("insertion", "deletion"):
        return Markup('<span class="none">none</span>')
    return show_spread(context, model, path, "#.3g", n) if held else NOT_MEASURED
