"""Compose the whole page: the sections in order, the style sheet, the script and the evaluations as JSON."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.measures import measures
from robustcls.reporting.context import Context, name_each
from robustcls.reporting.html import fill_page
from robustcls.reporting.images import embed, plan, take_out
from robustcls.reporting.scrub import scrub, without_arrays
from robustcls.results.comparison import find_mismatch
from robustcls.results.policy import Policy
from robustcls.results.records import Evaluation


@dataclasses.dataclass(frozen=True)
class Placed:
    """A section on the page."""

    slug: str
    title: str
    body: Markup


def compose(
    evaluations: Sequence[Evaluation],
    policy: Policy | None,
    title: str | None,
    redact_images: bool,
    sections: Sequence[str] | None,
    assets: str | None = None,
) -> tuple[str, dict[str, bytes]]:
    """Return the report as text, and the contents of its image files by name.

    assets: relative URL of the folder of the image files; None embeds the images, and there are no files. Raises InputError
    for an unknown section, and if there is no evaluation.
    """
    if not evaluations:
        raise InputError("a report needs an evaluation: give the file that `robustcls attack` wrote")
    shown = tuple(scrub(without_arrays(one) if redact_images else one) for one in evaluations)
    quality, arrays = plan(shown, apart=assets is not None)
    names = name_each(shown)
    context = Context(shown, names, policy or Policy(), find_mismatch(shown), redact_images, quality, arrays)
    placed = _place(context, sections)
    files: dict[str, bytes] = {}
    if assets is not None:
        for i, one in enumerate(placed):
            body, found = take_out(str(one.body), assets)
            placed[i] = dataclasses.replace(one, body=Markup(body))
            files |= found
    text = fill_page(
        "page.html",
        c=context,
        n=context.number,
        title=title or "Adversarial robustness: " + " against ".join(names),
        sections=placed,
        images="'self' file: data: blob:"
        if files
        else "data: blob:",  # file: because for some browsers 'self' excludes files
        embedded=[Markup(embed(one, arrays)) for one in shown],
    )
    return text, files


def _place(context: Context, wanted: Sequence[str] | None) -> list[Placed]:
    found = [_load(name) for name in (plugins.names("section") if wanted is None else wanted)]
    if wanted is None:
        found.sort(key=lambda one: (one[0], one[1]))
    placed: list[Placed] = []
    for _, slug, title, show in found:
        body = show(context)
        if body is not None:
            taken = slug in [one.slug for one in placed]
            placed.append(Placed(f"{slug}-{len(placed)}" if taken else slug, title, body))
    return placed


def _load(name: str) -> tuple[int, str, str, Callable[[Context], Markup | None]]:
    """(order, slug, title, function) of a section plug-in. Without ORDER it comes last; without TITLE its name is the title."""
    parts = {key: part for measure in measures() for key, part in measure.parts.items()}
    show: Any = plugins.load("section", name)
    function = show.func if isinstance(show, partial) else show
    home = sys.modules[function.__module__]
    slug = function.__name__.replace("_", "-")
    title = getattr(home, "TITLE", function.__name__.replace("_", " ").capitalize())
    if name in parts:
        return parts[name].order, slug, parts[name].title, show
    return getattr(home, "ORDER", 1000), slug, title, show
