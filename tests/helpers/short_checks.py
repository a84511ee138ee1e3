"""Self-checks of few steps and queries, for tests that are not about them: theirs take longer than so small an attack.

`python -m tests.helpers.short_checks ...` is `robustcls ...` with them.
"""

from importlib import import_module
from runpy import run_module

FEW = {
    ("more_steps", "PROBE"): ("apgd_ce(steps=3)", "apgd_t(steps=3, targets=1)"),
    ("black_box_wins", "QUERIES"): (8, 28, 200),
}


def shorten_checks(put=setattr) -> None:
    """put: called with the module, the name and the value of each constant."""
    for (check, name), value in FEW.items():
        put(import_module(f"robustcls.evaluation.checks.{check}"), name, value)


if __name__ == "__main__":
    shorten_checks()
    run_module("robustcls", run_name="__main__")
