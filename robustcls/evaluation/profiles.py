"""How much a report measures: named sets of options, from a look to everything."""

from collections.abc import Mapping
from typing import Any

from robustcls.core.errors import unknown
from robustcls.core.measures import measures

PROFILES: dict[str, dict[str, Any]] = {
    # Keeps a time budget besides, which `minutes_of` in evaluation/budget.py gives it by the size of the images.
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
    """The profile that the layers of options name, then the layers; of several the later wins.

    A layer that names attacks or a suite silences what the ones before it say of either. Raises InputError.
    """
    name = next((layer["profile"] for layer in reversed(layers) if layer.get("profile")), "standard")
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    found: list[dict[str, Any]] = []
    for layer in ({"profile": name, **PROFILES[name]}, *layers):
        if layer.get("attack") or layer.get("suite"):
            found = [{key: value for key, value in one.items() if key not in ("attack", "suite")} for one in found]
        found.append(dict(layer))
    return found
