"""Self-checks of an evaluation: signs that its numbers mislead, after the checklists of Carlini et al. 2019
(arXiv:1902.06705) and Athalye et al. 2018 (arXiv:1802.00420).

A file here defines a function of its own name, decorated with `check`, or several that it lists in `__all__`: that is all
that a new check needs. The function's name is the check's id.
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
    """All checks, in the order of their places."""
    found: list[CheckFunction] = []
    for file in iter_modules(__path__):
        if not file.name.startswith("_"):
            module = import_module(f"{__name__}.{file.name}")
            found += [getattr(module, name) for name in getattr(module, "__all__", [file.name])]
    return tuple(sorted(found, key=lambda one: one.place))


def thorough_checks() -> tuple[CheckFunction, ...]:
    """Those that are made only where they are asked for, since they attack much."""
    return tuple(one for one in all_checks() if one.thorough)


def run_checks(
    engine: Engine, outcome: Outcome, more: Sequence[CheckFunction] = (), progress: Progress | None = None
) -> list[Check]:
    """The checks that are always made, and more of them."""
    found = [one(engine, outcome) for one in all_checks() if not one.thorough]
    each: Iterable[Sequence[CheckFunction]] = [(one,) for one in more]
    if progress is not None and more:
        each = progress(list(each), "self-checks", len(more), lambda: int(outcome.robust.sum()))
    found += [one(engine, outcome) for (one,) in each]
    return [check for check in found if check is not None]
