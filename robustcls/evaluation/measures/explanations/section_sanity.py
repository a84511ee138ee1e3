"""The section Attribution sanity: checks that a map must pass to say anything about the model, and measures of quality."""

from markupsafe import Markup

from robustcls.reporting.context import FEW, Context
from robustcls.reporting.html import fill_file
from robustcls.reporting.missing import reasons_of
from robustcls.results.records import MethodMeasures

# The checks of every method, each with the text that is shown if the check was not run.
EXPECTED = {
    "finite_maps": "the maps were not searched for values that are not finite",
    "completeness": "the sum of the map was not compared with the change of the logit",
    "parameter_randomisation": "the maps were not compared with maps of a model with shuffled weights",
    "random_logit": "the maps were not compared with maps for another class",
    "repeatability": "the maps were not computed twice with the same seed",
    "insertion": "pixels were not inserted in the order of the map and of its displaced copies",
    "deletion": "pixels were not deleted in the order of the map and of its displaced copies",
}
# What a failure of a check means.
FAILED = {
    "finite_maps": "its maps contain values that are not finite, which count as 0",
    "completeness": "the values of its maps do not add up to the change of the logit",
    "parameter_randomisation": "its maps change too little when the model's weights are shuffled",
    "random_logit": "its maps change too little when another class is explained",
    "repeatability": "its maps differ when they are computed again with the same seed",
    "insertion": "inserting the pixels that it ranks first does no better than the same map at random other places",
    "deletion": "deleting the pixels that it ranks first does no better than the same map at random other places",
}
QUALITY = {  # measure: (name, how to read it)
    "infidelity": (
        "Infidelity",
        "share of the decrease of the logit that the map does not explain as random halves of the image are blanked; 0 is best",
    ),
    "gini": ("Gini index", "how concentrated the map is: 0 is spread evenly, 1 is all on one pixel; neither is better"),
    "insertion": (
        "Insertion",
        "mean probability of the class while pixels are inserted, highest map values first; good if above the displaced map",
    ),
    "deletion": (
        "Deletion",
        "mean probability of the class while pixels are deleted, highest map values first; good if below the displaced map",
    ),
    "completeness_gap": (
        "Completeness gap",
        "difference between the sum of the map and the change of the logit, relative to this change; 0 is exact",
    ),
    "reseeded": (
        "Similarity under another seed",
        "rank correlation with the map computed with another seed; 1 for methods without random draws",
    ),
}
BADGED = "fails the sanity checks"  # in the note of a method that is known to fail them, whatever was measured here


def sanity(context: Context) -> Markup:
    """The checks and quality measures of each method. A callout names every method that fails a check."""
    return fill_file(
        "explanations/section_sanity.html",
        context,
        absent=reasons_of(context, "sanity"),
        failing=_failing,
        expected=EXPECTED,
        quality=QUALITY,
        badged=BADGED,
        few=FEW,
    )


def _failing(method: MethodMeasures) -> str:
    """The checks that fail and what this means; "" if none fails."""
    failed = [check.id for check in method.checks if check.status == "fail"]
    meaning = "; ".join(FAILED[key] for key in failed if key in FAILED)
    return f"fails {', '.join(failed)}" + (f": {meaning}." if meaning else ".") if failed else ""
