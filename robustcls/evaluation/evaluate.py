"""The old home of judge.py, for who still imports it from here.

Importing a sub-module sets it on its package, in the place of the function `evaluate`: so it can be called as that.
"""

import sys
from types import ModuleType
from typing import Any

from robustcls.evaluation import evaluate
from robustcls.evaluation.judge import Judged, describe_model, judge, suite_attacks

__all__ = ["Judged", "describe_model", "judge", "suite_attacks"]


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return evaluate(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
