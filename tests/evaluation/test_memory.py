"""The memory of an evaluation grows only with the images and the attempts on them."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT

CODE = """
import resource, torch, robustcls
from robustcls.evaluation.evaluate import evaluate_subject
from robustcls.evaluation.plan import make_plan
from robustcls.evaluation.subject import make_subject
from tests.helpers.short_checks import shorten_checks
shorten_checks()
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(256, 10)
)
x = torch.rand({n}, 3, 32, 32)
with torch.no_grad():
    y = torch.cat([model(part).argmax(1) for part in x.split(256)])
subject = make_subject(model, x, y, robustcls.ThreatModel("linf", 1e-4))
plan = make_plan(subject, ["apgd_ce(steps=2)", "noise(draws=2)"], precision="fp32", eps_grid={grid})
found = evaluate_subject(subject, plan)
assert found.robust.correct > 0.9 * {n}, "nearly all must survive, so that all attacks hold them all"
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(n: int, grid: list[float]) -> int:
    code = CODE.format(n=n, grid=grid)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
@pytest.mark.parametrize(("grid", "copies"), [([], 2), ([5e-5, 1.5e-4, 2e-4], 3)], ids=["one radius", "curve"])
def test_ten_thousand_images_need_their_own_pixels_and_those_of_the_attempts(grid, copies):
    """A security curve needs memory for its own attempts."""
    pixels = 9000 * 3 * 32 * 32 * 4
    assert peak(10000, grid) - peak(1000, grid) < (copies + 0.5) * pixels
