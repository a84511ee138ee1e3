"""Auto-PGD visits the points of Algorithm 1 of the paper (arXiv:2003.01690), written out here for one image."""

import pytest
import torch
from torch import Tensor, nn

from robustcls.attacks.apgd import apgd_ce, apgd_dlr
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_nets import trained_on_digits
from tests.helpers.seeds import seeded

STEPS = 50  # checkpoints after 11, 21, 30, 38, 45 steps


class Visited(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.points = net, []

    def forward(self, x: Tensor) -> Tensor:
        self.points.append(x.detach().clone())
        return self.net(x)


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    return logits.logsumexp(0) - logits[label]


def dlr(logits: Tensor, label: int) -> Tensor:
    order = logits.sort().values
    other = torch.cat([logits[:label], logits[label + 1 :]]).max()
    return -(logits[label] - other) / (order[-1] - order[-3])


def checkpoints(steps: int) -> list[int]:
    """The checkpoints w_j = ceil(p_j * steps) of the paper, rounded to whole steps as in the authors' code."""
    period, at = max(int(0.22 * steps), 1), []
    step = period
    while step < steps:
        at.append(step)
        period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        step += period
    return at


class Waves(nn.Module):
    """A network of sums of sines, in which long steps jump over maxima that short steps find."""

    def __init__(self, pixels: int, frequency: float, seed: int) -> None:
        super().__init__()
        generator = seeded(seed)
        self.inner = frequency * torch.randn(pixels, 32, generator=generator)
        self.outer = torch.randn(32, 3, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.inner).sin() @ self.outer


def algorithm_1(net, x: Tensor, y: int, start: Tensor, norm: str, eps: float, loss) -> tuple[list[Tensor], list[str]]:
    """Return the visited points, and the outcomes of the second condition at the checkpoints where the first one, too few
    increases of the loss, does not halve the step."""

    def project(z: Tensor) -> Tensor:
        if norm == "linf":
            return torch.max(torch.min(z, x + eps), x - eps).clamp(0, 1)
        length = (z - x).norm()
        return (x + (z - x) * min(1.0, eps / max(length.item(), 1e-12))).clamp(0, 1)

    def look(point: Tensor) -> tuple[float, Tensor]:
        point = point.clone().requires_grad_()
        value = loss(net(point[None])[0], y)
        return value.item(), torch.autograd.grad(value, point)[0]

    def up(gradient: Tensor) -> Tensor:
        return gradient.sign() if norm == "linf" else gradient / gradient.norm()

    eta, points, values = 2 * eps, [start], []
    value, gradient = look(start)
    values.append(value)
    best, best_value, best_gradient = start, value, gradient
    here = before = start
    said: list[str] = []
    last, at = (0, eta, value), checkpoints(STEPS)  # step, eta and best value at the last checkpoint
    for k in range(STEPS):
        z = project(here + eta * up(gradient))
        here, before = z if k == 0 else project(here + 0.75 * (z - here) + 0.25 * (here - before)), here
        points.append(here)
        value, gradient = look(here)
        values.append(value)
        if value > best_value:
            best, best_value, best_gradient = here, value, gradient
        if k + 1 in at:
            since = range(last[0], k + 1)
            few = sum(values[i + 1] > values[i] for i in since) <= 0.75 * len(since)
            stuck = last[1:] == (eta, best_value)
            if not few:
                said.append("halve" if stuck else "new maximum" if best_value > last[2] else "halved before")
            last = (k + 1, eta, best_value)
            if few or stuck:
                eta /= 2
                here, gradient = best, best_gradient
    return points, said


def assert_same_points(ours, net, x: Tensor, y: Tensor, start: Tensor, threat: ThreatModel, loss) -> list[str]:
    """Compare the points for one image; return the outcomes of the second condition."""
    model = Visited(net)
    ours(model, x, y, threat, steps=STEPS, early_stop=False, start=start)

    expected, said = algorithm_1(net, x[0], int(y), start[0], threat.norm, threat.eps, loss)

    assert len(model.points) == STEPS + 1
    far = [float((mine[0] - point).abs().max()) for mine, point in zip(model.points, expected, strict=True)]
    assert max(far[:12]) < 1e-4, "before the first checkpoint"
    assert max(far) < 1e-3, far
    return said


@pytest.mark.parametrize(("ours", "loss"), [(apgd_ce, cross_entropy), (apgd_dlr, dlr)])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.6)])
def test_the_points_are_those_of_the_paper(ours, loss, norm, eps):
    net, images, labels = trained_on_digits()
    threat = ThreatModel(norm, eps)
    begin = threat.random_start(images, seeded())
    for row in range(8):
        assert_same_points(ours, net, images[row : row + 1], labels[row : row + 1], begin[row : row + 1], threat, loss)


@pytest.mark.parametrize(
    ("norm", "eps", "pixels", "frequency", "seed", "expected"),
    [
        ("linf", 0.1, 2, 10.0, 37, "halved before"),
        ("l2", 0.6, 1, 3.0, 27, "halved before"),
        ("l2", 0.6, 2, 3.0, 241, "halve"),
        ("l2", 0.6, 2, 3.0, 197, "halve"),
    ],
)
def test_a_step_without_a_new_maximum_is_halved_unless_it_just_was(norm, eps, pixels, frequency, seed, expected):
    """This is the second condition, in cases where the first one does not halve the step."""
    threat, net = ThreatModel(norm, eps), Waves(pixels, frequency, seed)
    x = 0.3 + 0.4 * torch.rand(1, 1, 1, pixels, generator=seeded(seed))
    y = net(x).argmax(1)
    starts = threat.random_start(x.expand(200, -1, -1, -1), seeded(seed))
    losses = torch.stack([cross_entropy(logits, int(y)) for logits in net(starts)])
    start = starts[losses.argmax()][None]  # the largest loss, so that steps without a new maximum follow
    assert expected in assert_same_points(apgd_ce, net, x, y, start, threat, cross_entropy)
