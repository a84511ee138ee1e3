"""How much a report measures: named sets of options, from a look to everything."""

from collections.abc import Mapping
from typing import Any

from robustcls.core.errors import unknown

PROFILES: dict[str, dict[str, Any]] = {
    # Two minutes for the digits on two cores.
    "quick": {
        "n": "100", "examples": 12, "maps_n": 10, "curves_n": 0, "minimum_n": 0, "corruptions_n": 0, "checks": "passive",
    },
    "standard": {"n": "1000", "each_alone": True, "eps_grid": "auto"},
    "full": {
        "n": "all", "suite": "standard", "each_alone": True, "eps_grid": "auto", "examples": 40, "maps_n": 200,
        "curves_n": 500, "minimum_n": 500, "corruptions_n": 10_000,
    },
}  # fmt: skip


def profile_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a profile; its suite gives way to attacks that were named. Raises InputError."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    chosen = {"profile": name, **PROFILES[name]}
    if given.get("attack"):
        chosen.pop("suite", None)
    return chosen
