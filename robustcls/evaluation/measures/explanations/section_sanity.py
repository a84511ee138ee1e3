"""Whether the attribution maps say anything about the model: checks that a map must pass, and measures of its quality."""

from markupsafe import Markup

from robustcls.reporting.context import FEW, Context
from robustcls.reporting.html import fill_file
from robustcls.reporting.missing import reasons_of
from robustcls.results.records import MethodMeasures

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
    """Which checks fail and what that means; "" where none does."""
    failed = [check.id for check in method.checks if check.status == "fail"]
    meaning = "; ".join(FAILED[key] for key in failed if key in FAILED)
    return f"fails {', '.join(failed)}" + (f": {meaning}." if meaning else ".") if failed else ""
