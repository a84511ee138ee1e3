"""An evaluation holds its images and the attempts on them, whatever their number; the rest comes and goes by batch."""

import subprocess
import sys

import pytest

CODE = """
import resource, torch, robustcls
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(256, 10)
)
x = torch.rand({n}, 3, 32, 32)
with torch.no_grad():
    y = torch.cat([model(part).argmax(1) for part in x.split(256)])
found = robustcls.evaluate(
    model, x, y, robustcls.ThreatModel("linf", 1e-4), attacks=["pgd(steps=2)", "noise(draws=2)"], precision="fp32"
)
assert found.robust.correct > 0.9 * {n}, "nearly all must survive, so that all attacks hold them all"
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(n: int) -> int:
    done = subprocess.run([sys.executable, "-c", CODE.format(n=n)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_ten_thousand_images_need_their_own_pixels_and_those_of_the_attempts():
    pixels = 9000 * 3 * 32 * 32 * 4
    assert peak(10000) - peak(1000) < 2.5 * pixels
