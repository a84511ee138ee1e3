"""Certified lower bounds of a plain network's margins: intervals, and CROWN's lines carried backward from the logits.

A margin is z_y - z_k. A lower bound of it holds for every image x' within eps of x (linf or l2) and inside [0, 1]; where all
are positive, no attack can succeed: the sample is certified. Bounds tell much about small networks at small radii, and are the
strictest test of an attack; of a large adversarially trained network at 8/255 they certify nothing, however robust it is.

Interval bounds are those of Gowal et al. 2018 (arXiv:1810.12715), CROWN is of Zhang et al. 2018 (arXiv:1811.00866) with the
slopes of DeepPoly (Singh et al. 2019) below ReLU, CROWN-IBP of Zhang et al. 2019 (arXiv:1906.06316). What differs from them:
the interval of a layer's input is the tighter of CROWN's and of the one that comes through the layers, and a margin's bound is
the best of all methods up to the one asked for, so that CROWN is never looser than CROWN-IBP, nor that than intervals; only
entries over which an activation is not linear get a bound of their own; in l2 a line is bounded over the ball and the box
together, not over the ball alone. Slopes are not optimised, and nothing is branched on.

Rounding: all is computed in float64, at eps (1 + 1e-6) + 1e-6, within which a verdict accepts an adversarial example, and a
margin counts as positive beyond 3e-6 of the logits, by which a verdict needs an example to be misclassified. What float64
itself rounds, near 1e-14, is far below that, and is not bounded.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from robustcls.certification.graph import trace
from robustcls.certification.layers import Affine, Interval, MaxPool, Mean, Monotone, Of
from robustcls.certification.network import Network, read
from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of
from robustcls.core.errors import InputError, unknown
from robustcls.core.gradients import frozen
from robustcls.core.logits import logits_of
from robustcls.core.losses import VERDICT_TIE
from robustcls.core.norms import per_sample
from robustcls.core.progress import Bar
from robustcls.core.threat import BALL, ThreatModel

Method = Literal["ibp", "crown_ibp", "crown"]
METHODS: tuple[Method, ...] = get_args(Method)
ROOM = {"cpu": 2**23, "cuda": 2**27}  # bytes of the largest tensor of rows, of which there are ten at once
AGREES = 1e-4  # of the logits: how far the network as it was read may be from the model


@dataclass(frozen=True)
class Bounds:
    """margins: N,K, float64: lower bounds of z_y - z_k, inf for k = y. certified: N, bool: no image in the ball and the box is
    misclassified. method: which bounds they are."""

    margins: Tensor
    certified: Tensor
    method: str


class Region:
    """The images within eps of each x, N,C,H,W, and inside [0, 1]; where a mask lets nothing change they are x."""

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        self.x, self.norm, self.eps = x, threat.norm, threat.eps
        inside = Interval((x - self.eps).clamp_min(0), (x + self.eps).clamp_max(1))
        self.box = Interval(threat.restored(inside.lower, x), threat.restored(inside.upper, x))

    def least(self, rows: Tensor, of: Of) -> Tensor:
        """A lower bound of rows x' over the images x' of the samples `of`: R. In linf the least value itself.

        In l2 that is, with d_i how far pixel i goes against its coefficient and room_i how far the box lets it,

            rows x - max sum |a_i| d_i  over  0 <= d_i <= room_i, |d| <= eps,

        at least the value of the dual at any multiplier m > 0: rows x - sum_i max_d (|a_i| d - m d^2 / 2) - m eps^2 / 2.
        That is taken at m = |a| / eps, the best one without the box, where it is the dual norm's -eps |a|.
        """
        if self.norm == "linf":
            return _least(rows, of, self.box)
        room = torch.where(rows > 0, self.x[of] - self.box.lower[of], self.box.upper[of] - self.x[of])
        size = rows.abs().masked_fill(room <= 0, 0)  # of those that can go nowhere, which need no share of eps
        multiplier = (size.flatten(1).norm(dim=1) / max(self.eps, 1e-12)).clamp_min(1e-30)
        moved = (size / per_sample(multiplier, rows)).minimum(room)
        gain = (size * moved - per_sample(multiplier, rows) * moved.square() / 2).flatten(1).sum(1)
        return (rows * self.x[of]).flatten(1).sum(1) - gain - multiplier * self.eps**2 / 2


def _least(rows: Tensor, of: Of, box: Interval) -> Tensor:
    """The least value of rows h for h in the intervals of the samples `of`: R."""
    return (rows.clamp_min(0) * box.lower[of] + rows.clamp_max(0) * box.upper[of]).flatten(1).sum(1)


# Interval bounds


def intervals(network: Network, region: Region) -> list[Interval]:
    """Of the image and of the value of each step.

    In l2 the first layer that mixes pixels takes the ball itself: |W_i|_2 eps around W_i x + b_i.
    """
    boxes = [region.box]
    # Values that are x times a factor of each entry, plus a shift: their middle, and the factors.
    balls = {0: (region.x, (region.box.upper > region.box.lower).to(region.x.dtype))} if region.norm == "l2" else {}
    for number, step in enumerate(network.steps, start=1):
        box, layer = step.layer.interval(*(boxes[k] for k in step.inputs)), step.layer
        if isinstance(layer, Affine) and step.inputs[0] in balls:
            middle, factor = balls[step.inputs[0]]
            if not layer.mixes:
                balls[number] = (layer(middle), layer.spread(factor))
            elif not isinstance(layer, Mean):
                middle, radius = (
                    layer(middle),
                    region.eps * layer.spread(factor.square(), power=2).clamp_min(1e-24).sqrt(),
                )
                box &= Interval(middle - radius, middle + radius)
        boxes.append(box)
    return boxes


def interval_margins(network: Network, region: Region, boxes: list[Interval], y: Tensor) -> Tensor:
    """Lower bounds of z_y - z_k from the intervals, N,K, 0 for k = y: (w_y - w_k) mu - |w_y - w_k| r with a last layer w."""
    num_classes = network.steps[-1].shape[0]
    of = torch.arange(len(y), device=y.device).repeat_interleave(num_classes)
    other = torch.arange(num_classes, device=y.device).repeat(len(y))
    rows = differences(y[of], other, num_classes, boxes[0].lower.dtype)
    rows, constant, number = elide(network, rows, len(network.steps))
    least = _least(rows, of, boxes[number]) if number else region.least(rows, of)
    return (constant + least).view(len(y), num_classes)


def elide(network: Network, rows: Tensor, number: int) -> tuple[Tensor, Tensor, int]:
    """Rows of the value of a step as rows of the value before the affine steps that lead to it, R,..., with a constant R and
    the number of that value: the same for every sample."""
    constant = rows.new_zeros(len(rows))
    while number and isinstance((step := network.steps[number - 1]).layer, Affine):
        (rows,), more = step.layer.back(rows, slice(0), None, [network.shape(step.inputs[0])])
        constant, number = constant + more, step.inputs[0]
    return rows, constant, number


def differences(y: Tensor, other: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Rows e_y - e_k on the logits: R,K. y, other: R."""
    rows = torch.zeros(len(y), num_classes, dtype=dtype, device=y.device)
    one = torch.ones(len(y), 1, dtype=dtype, device=y.device)
    return rows.scatter_add(1, y[:, None], one).scatter_add(1, other[:, None], -one)


# CROWN


def crown(network: Network, region: Region, lines: dict[int, Any], rows: Tensor, of: Of, number: int) -> Tensor:
    """A lower bound of rows x the value of step `number`, over the region of each row's sample: R.

    From step to step back to the image: a row of the sum of what goes into a step becomes one of its inputs, through the line
    below an activation where the coefficient is positive, through the one above where it is negative.

    Args:
        lines: of each step before, from the intervals of its inputs.
        rows: R,... as the value of the step.
    """
    pending, total = {number: rows}, rows.new_zeros(len(rows))
    for place in range(number, 0, -1):
        if place not in pending:
            continue
        step = network.steps[place - 1]
        shapes = [network.shape(k) for k in step.inputs]
        before, constant = step.layer.back(pending.pop(place), of, lines.get(place), shapes)
        total = total + constant
        for k, coefficients in zip(step.inputs, before, strict=True):
            pending[k] = pending[k] + coefficients if k in pending else coefficients
    return total + region.least(pending[0], of) if 0 in pending else total


def tightened(network: Network, region: Region, *, through_crown: bool) -> dict[int, Any]:
    """The lines of every step, from intervals of its inputs that CROWN has tightened, from the first layer to the last."""
    loose, boxes = intervals(network, region), [region.box]
    lines: dict[int, Any] = {}
    for number, step in enumerate(network.steps, start=1):
        inputs = [boxes[k] for k in step.inputs]
        if through_crown and isinstance(step.layer, Monotone | MaxPool) and _mixes(network, step.inputs[0]) > 1:
            inputs = [_tighten(network, region, lines, inputs[0], step.layer.bent(inputs[0]), step.inputs[0])]
            boxes[step.inputs[0]] = inputs[0]
        lines[number] = step.layer.lines(*inputs)
        boxes.append(step.layer.interval(*inputs) & loose[number])
    return lines


def _tighten(
    network: Network, region: Region, lines: dict[int, Any], box: Interval, wanted: Tensor, number: int
) -> Interval:
    """The intervals of the value of step `number`, where `wanted` (N,...) tightened by CROWN."""
    lower, upper, wanted = (each.flatten(1) for each in (box.lower.clone(), box.upper.clone(), wanted))
    entries = wanted.any(0).nonzero().squeeze(1)
    for part in _parts(network, len(entries), 2 * lower.dtype.itemsize, lower.device):
        some = entries[part]
        rows = lower.new_zeros(len(some), lower.shape[1]).scatter_(1, some[:, None], 1.0)
        rows, constant, before = elide(network, rows.view(-1, *network.shape(number)), number)
        for sample in range(len(lower)):
            own = wanted[sample, some]
            ends = torch.cat([rows[own], -rows[own]])  # an upper bound is one below of the negative
            found = crown(network, region, lines, ends, slice(sample, sample + 1), before)
            below, above = found.chunk(2)
            lower[sample, some[own]] = lower[sample, some[own]].maximum(below + constant[own])
            upper[sample, some[own]] = upper[sample, some[own]].minimum(constant[own] - above)
    # Of a value that cannot change both ends may cross by rounding.
    return Interval(lower.minimum(upper).view_as(box.lower), upper.maximum(lower).view_as(box.upper))


def _mixes(network: Network, number: int) -> int:
    """How many steps that mix entries, or bend them, lie before this value: after the first, intervals are exact."""
    if number == 0:
        return 0
    step = network.steps[number - 1]
    if isinstance(step.layer, Monotone):
        return 0  # its interval is what the tight one of its input gives
    return max(_mixes(network, k) for k in step.inputs) + step.layer.mixes + any(_bent(network, k) for k in step.inputs)


def _bent(network: Network, number: int) -> bool:
    """Whether an activation or a max pooling lies before this value."""
    if number == 0:
        return False
    step = network.steps[number - 1]
    return isinstance(step.layer, Monotone | MaxPool) or any(_bent(network, k) for k in step.inputs)


def _parts(network: Network, count: int, itemsize: int, device: torch.device) -> Iterator[slice]:
    """So many rows, as many at once as have room."""
    largest = max(network.shape(number).numel() for number in range(len(network.steps) + 1))
    size = max(1, ROOM[device.type] // (largest * itemsize))
    return (slice(start, start + size) for start in range(0, count, size))


# The certificate


@torch.no_grad()
def certify_bounds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel | str,
    *,
    method: Method = "crown",
    progress: bool = False,
) -> Bounds:
    """Lower bounds of the margins of a plain network within `threat`, and which samples they certify.

        bounds = certify_bounds(model, images, labels, "linf:2/255")
        bounds.certified.float().mean()  # at most the robust accuracy under any attack

    Args:
        model: on [0, 1] pixels; it is left exactly as it was.
        x: N,C,H,W in [0, 1]. y: the labels, N.
        method: ibp, intervals alone; crown_ibp, lines over these; crown, the tightest and slowest.
        progress: show it on stderr.

    Raises:
        InputError: for layers that cannot be bounded, another norm than linf and l2, and a radius of 0.
    """
    threat = ThreatModel.parse(threat) if isinstance(threat, str) else threat
    check(threat, method)
    check_images(x, y, input_size_of(model))
    threat.check_fits(x.shape[1:])
    home = device_of(model)
    device = home if home.type in ("cpu", "cuda") else torch.device("cpu")  # others have no float64
    x, y = x.to(device, torch.float64), y.to(device)
    exact = copy.deepcopy(model).to(device, torch.float64).eval()
    network = read(trace(exact), x[:1])
    wider = threat.at(threat.eps * (1 + BALL) + BALL)
    margins, certified = [], []
    with Bar(len(x), f"bounds ({method})", "image", show=progress) as bar:
        for part in _samples(network, len(x)):
            logits = _agreed(network, exact, x[part], y[part])
            found = _margins(network, Region(x[part], wider), y[part], method)
            tie = VERDICT_TIE * logits.abs().amax(1, keepdim=True)
            margins.append(found)
            certified.append((found > tie).all(1))
            bar.advance(len(found), f"{sum(int(each.sum()) for each in certified)} certified")
    return Bounds(torch.cat(margins), torch.cat(certified), method)


def check(threat: ThreatModel, method: str = "crown") -> None:
    """Raises InputError for a threat model, or a method, that bounds do not know."""
    if method not in METHODS:
        raise unknown("method of bounds", method, METHODS)
    if threat.norm not in ("linf", "l2"):
        raise InputError(f"bounds do not know the norm {threat.norm}: take linf or l2")
    if threat.eps == 0:
        raise InputError("bounds at eps 0 say no more than the clean accuracy: give `eps` above 0, such as `eps=2/255`")


def _samples(network: Network, count: int) -> Iterator[slice]:
    """Parts of a batch of which all intervals and lines have room."""
    values = sum(network.shape(number).numel() for number in range(len(network.steps) + 1))
    size = max(1, min(100, 10 * ROOM["cpu"] // (values * 8)))
    return (slice(start, start + size) for start in range(0, count, size))


def _agreed(network: Network, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The logits N,K. Raises InputError where the network that was read gives others than the model."""
    with frozen(model):
        expected = logits_of(model(x.clone()))
    check_logits(expected, y)
    logits = network(x)
    if logits.shape != expected.shape or (logits - expected).abs().amax() > AGREES * expected.abs().amax():
        raise InputError(
            f"{type(model).__name__} is no plain network: its layers, one after another, do not give its logits, as where it "
            "is random, has hooks, or writes on its own values; `sigma` certifies any model that was trained with noise"
        )
    return logits


def _margins(network: Network, region: Region, y: Tensor, method: Method) -> Tensor:
    """Lower bounds of z_y - z_k: N,K, inf for k = y; the largest of a method and of those before it."""
    margins = interval_margins(network, region, intervals(network, region), y)
    others = torch.ones_like(margins, dtype=torch.bool).scatter_(1, y[:, None], False)
    samples, classes = others.nonzero(as_tuple=True)
    for through_crown in (False, True)[: METHODS.index(method)]:
        lines = tightened(network, region, through_crown=through_crown)
        for part in _parts(network, len(samples), margins.itemsize, margins.device):
            of, other = samples[part], classes[part]
            rows = differences(y[of], other, margins.shape[1], margins.dtype)
            rows, constant, before = elide(network, rows, len(network.steps))
            found = crown(network, region, lines, rows, of, before)
            margins[of, other] = margins[of, other].maximum(found + constant)
    return margins.masked_fill(~others, torch.inf)
