"""Self-checks: signs that the numbers of an evaluation mislead, after the checklists of Carlini et al. 2019
(arXiv:1902.06705) and Athalye et al. 2018 (arXiv:1802.00420).

To add a check, add a file that defines a function with the file's name, decorated with `check`, or several functions listed in
`__all__`. The function's name is the check's id.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from robustcls.evaluation.cascade import Outcome, Progress
from robustcls.evaluation.checks._check import CheckFunction
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check


@cache
def all_checks() -> tuple[CheckFunction, ...]:
    """Return all checks, sorted by their place."""
    checks: list[CheckFunction] = []
    for file in iter_modules(__path__):
        if not file.name.startswith("_"):
            module = import_module(f"{__name__}.{file.name}")
            checks += [getattr(module, name) for name in getattr(module, "__all__", [file.name])]
    return tuple(sorted(checks, key=lambda one: one.place))


def thorough_checks() -> tuple[CheckFunction, ...]:
    """Return the checks that run only on request, because they run long attacks."""
    return tuple(one for one in all_checks() if one.thorough)


def run_checks(
    engine: Engine, outcome: Outcome, more: Sequence[CheckFunction] = (), progress: Progress | None = None
) -> list[Check]:
    """Run the checks that always run, then those in `more`. Return the results."""
    results = [one(engine, outcome) for one in all_checks() if not one.thorough]
    each: Iterable[Sequence[CheckFunction]] = [(one,) for one in more]
    if progress is not None and more:
        each = progress(list(each), "self-checks", len(more), lambda: int(outcome.robust.sum()))
    results += [one(engine, outcome) for (one,) in each]
    return [check for check in results if check is not None]
