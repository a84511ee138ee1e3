"""Shortened self-checks for tests that are not about them: at full length they would take longer than the small attacks.

`python -m tests.helpers.short_checks ...` runs `robustcls ...` with shortened self-checks.
"""

from importlib import import_module
from runpy import run_module

FEW = {
    ("more_steps", "PROBE"): ("apgd_ce(steps=3)", "apgd_t(steps=3, targets=1)"),
    ("black_box_wins", "QUERIES"): (8, 28, 200),
}


def shorten_checks(put=setattr) -> None:
    """Shorten the self-checks. put: called with the module, the name and the value of each constant."""
    for (check, name), value in FEW.items():
        put(import_module(f"robustcls.evaluation.checks.{check}"), name, value)


if __name__ == "__main__":
    shorten_checks()
    run_module("robustcls", run_name="__main__")
