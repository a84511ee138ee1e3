"""Profiles: named sets of options for how much a report measures."""

from collections.abc import Mapping
from typing import Any

from robustcls.core.errors import unknown
from robustcls.core.measures import measures

PROFILES: dict[str, dict[str, Any]] = {
    # It also has a time limit, which depends on the size of the images: `minutes_of` in evaluation/budget.py.
    "quick": {
        "n": "100", "attack": ("apgd_ce(steps=20)",), "method": ("saliency", "gradcam"),
        "checks": "passive",
    },
    "standard": {"n": "1000", "each_alone": True, "eps_grid": "auto"},
    "full": {
        "n": "all", "suite": "standard", "each_alone": True, "eps_grid": "auto",
    },
}  # fmt: skip
for _measure in measures():
    for _profile, _values in _measure.profiles.items():
        PROFILES[_profile] |= _values


def layered(*layers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the options of the profile that the layers name, followed by the layers themselves; later ones take precedence.

    A layer that names attacks or a suite removes both from the layers before it. Raises InputError for an unknown profile.
    """
    name = next((layer["profile"] for layer in reversed(layers) if layer.get("profile")), "standard")
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    kept: list[dict[str, Any]] = []
    for layer in ({"profile": name, **PROFILES[name]}, *layers):
        if layer.get("attack") or layer.get("suite"):
            kept = [{key: value for key, value in one.items() if key not in ("attack", "suite")} for one in kept]
        kept.append(dict(layer))
    return kept
