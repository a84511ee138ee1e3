"""All combinations of objectives and training steps."""

import pytest

from robustcls.core import plugins

STEPS = ["once", "free(replays=2)", "awp(warmup=0.2)", "sparse(density=0.5, every=3)"]
COMBINATIONS = [
    (objective, step)
    for objective in plugins.names("objective")
    for step in STEPS
    if (objective, step) != ("standard", "free(replays=2)")  # refused: free needs an objective that attacks
]
every_combination = pytest.mark.parametrize(("objective", "step"), COMBINATIONS)
