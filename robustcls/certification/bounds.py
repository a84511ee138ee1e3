"""Certified lower bounds on a plain network's margins: interval bounds, and CROWN, which propagates linear bounds backward.

A margin is z_y - z_k. Its lower bound holds for every image x' within eps of x (linf or l2) and inside [0, 1]. If all bounds of
a sample are positive, no attack can succeed: the sample is certified. Bounds are useful for small networks at small radii, as
the strictest test of an attack. For a large adversarially trained network at 8/255 they certify nothing, however robust it is.

Interval bounds (IBP) follow Gowal et al. 2018 (arXiv:1810.12715), CROWN Zhang et al. 2018 (arXiv:1811.00866) with the lower
slopes of DeepPoly (Singh et al. 2019) for ReLU, and CROWN-IBP Zhang et al. 2019 (arXiv:1906.06316). Differences: the interval
of a layer's input is the intersection of CROWN's and of the one propagated through the layers. A margin's bound is the best of
all methods up to the chosen one, so CROWN is never looser than CROWN-IBP, nor CROWN-IBP than intervals. Only entries over which
an activation is not linear get their own CROWN bound. In l2, linear functions are bounded over the intersection of ball and
box, not over the ball alone. Slopes are not optimised, and there is no branching.

Rounding: everything is computed in float64, for the radius eps (1 + 1e-6) + 1e-6, up to which verification accepts an
adversarial example. A margin counts as positive if it exceeds 3e-6 of the logits, the tie that verification uses. The rounding
errors of float64 itself, near 1e-14, are far smaller and are not bounded.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from robustcls.certification.graph import check_plain, trace
from robustcls.certification.layers import Affine, Interval, MaxPool, Mean, Monotone, Of
from robustcls.certification.network import Network, read
from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of
from robustcls.core.errors import InputError, as_input_error, unknown
from robustcls.core.gradients import frozen
from robustcls.core.logits import logits_of
from robustcls.core.losses import VERDICT_TIE
from robustcls.core.norms import per_sample
from robustcls.core.progress import Bar
from robustcls.core.threat import BALL, ThreatModel

Method = Literal["ibp", "crown_ibp", "crown"]
METHODS: tuple[Method, ...] = get_args(Method)
ROOM = {"cpu": 2**23, "cuda": 2**27}  # bytes of the largest tensor of rows; about ten of these exist at once
AGREES = 1e-4  # difference allowed between the network as read and the model, relative to the largest logit


@dataclass(frozen=True)
class Bounds:
    """margins: N,K, float64, lower bounds of z_y - z_k, inf for k = y. certified: N, bool: no image in ball and box is
    misclassified. method: which bounds they are."""

    margins: Tensor
    certified: Tensor
    method: str


class Region:
    """The images within eps of each x, N,C,H,W, inside [0, 1], and equal to x outside the mask."""

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        self.x, self.norm, self.eps = x, threat.norm, threat.eps
        inside = Interval((x - self.eps).clamp_min(0), (x + self.eps).clamp_max(1))
        self.box = Interval(threat.restored(inside.lower, x), threat.restored(inside.upper, x))

    def least(self, rows: Tensor, of: Of) -> Tensor:
        """Return a lower bound of rows x' over all images x' of the samples `of`: R. In linf it is the exact minimum.

        In l2 the minimum is, with d_i how far pixel i moves against its coefficient a_i and room_i how far the box allows it,

            rows x - max sum |a_i| d_i  over  0 <= d_i <= room_i, |d| <= eps,

        which is at least the dual value at any multiplier m > 0: rows x - sum_i max_d (|a_i| d - m d^2 / 2) - m eps^2 / 2.
        The multiplier used is m = |a| / eps, the best one without the box, where it gives the dual norm's -eps |a|.
        """
        if self.norm == "linf":
            return _least(rows, of, self.box)
        room = torch.where(rows > 0, self.x[of] - self.box.lower[of], self.box.upper[of] - self.x[of])
        size = rows.abs().masked_fill(room <= 0, 0)  # pixels that cannot move use no part of eps
        multiplier = (size.flatten(1).norm(dim=1) / max(self.eps, 1e-12)).clamp_min(1e-30)
        moved = (size / per_sample(multiplier, rows)).minimum(room)
        gain = (size * moved - per_sample(multiplier, rows) * moved.square() / 2).flatten(1).sum(1)
        return (rows * self.x[of]).flatten(1).sum(1) - gain - multiplier * self.eps**2 / 2


def _least(rows: Tensor, of: Of, box: Interval) -> Tensor:
    """Return the minimum of rows h over h in the intervals of the samples `of`: R."""
    return (rows.clamp_min(0) * box.lower[of] + rows.clamp_max(0) * box.upper[of]).flatten(1).sum(1)


# Interval bounds


def intervals(network: Network, region: Region) -> list[Interval]:
    """Return the intervals of the image and of the value of each step.

    In l2, the first layer that mixes pixels is bounded over the ball itself: W_i x + b_i +- |W_i|_2 eps.
    """
    boxes = [region.box]
    # Values that are x scaled and shifted entry by entry, by number: their centre and the factors.
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
    """Return lower bounds of z_y - z_k from the intervals, N,K, 0 for k = y.

    With a last layer w, centre mu and radius r of its input: (w_y - w_k) mu - |w_y - w_k| r.
    """
    num_classes = network.steps[-1].shape[0]
    of = torch.arange(len(y), device=y.device).repeat_interleave(num_classes)
    other = torch.arange(num_classes, device=y.device).repeat(len(y))
    rows = differences(y[of], other, num_classes, boxes[0].lower.dtype)
    rows, constant, number = elide(network, rows, len(network.steps))
    least = _least(rows, of, boxes[number]) if number else region.least(rows, of)
    return (constant + least).view(len(y), num_classes)


def elide(network: Network, rows: Tensor, number: int) -> tuple[Tensor, Tensor, int]:
    """Carry rows of a step's value back through the affine steps right before it, which is the same for every sample. Return
    the rows of the value before these steps, R,..., a constant R, and the number of that value."""
    constant = rows.new_zeros(len(rows))
    while number and isinstance((step := network.steps[number - 1]).layer, Affine):
        (rows,), shift = step.layer.back(rows, slice(0), None, [network.shape(step.inputs[0])])
        constant, number = constant + shift, step.inputs[0]
    return rows, constant, number


def differences(y: Tensor, other: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Return the rows e_y - e_k on the logits: R,K. y, other: R."""
    rows = torch.zeros(len(y), num_classes, dtype=dtype, device=y.device)
    one = torch.ones(len(y), 1, dtype=dtype, device=y.device)
    return rows.scatter_add(1, y[:, None], one).scatter_add(1, other[:, None], -one)


# CROWN


def crown(network: Network, region: Region, lines: dict[int, Any], rows: Tensor, of: Of, number: int) -> Tensor:
    """Return a lower bound of rows times the value of step `number`, over the region of each row's sample: R.

    The rows are carried back step by step to the image. Through an activation, positive coefficients take its lower line and
    negative ones its upper line; rows that reach the same value from several steps are added.

    Args:
        lines: of each earlier step, computed from the intervals of its inputs.
        rows: R,..., each shaped like the value of the step.
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
    """Return the lines of every step, from the first to the last.

    through_crown: tighten the intervals of activations' inputs by CROWN; otherwise use plain intervals.
    """
    loose, boxes, mixes = intervals(network, region), [region.box], _mixes(network)
    lines: dict[int, Any] = {}
    for number, step in enumerate(network.steps, start=1):
        inputs = [boxes[k] for k in step.inputs]
        if through_crown and isinstance(step.layer, Monotone | MaxPool) and mixes[step.inputs[0]] > 1:
            inputs = [_tighten(network, region, lines, inputs[0], step.layer.bent(inputs[0]), step.inputs[0])]
            boxes[step.inputs[0]] = inputs[0]
        lines[number] = step.layer.lines(*inputs)
        boxes.append(step.layer.interval(*inputs) & loose[number])
    return lines


def _tighten(
    network: Network, region: Region, lines: dict[int, Any], box: Interval, wanted: Tensor, number: int
) -> Interval:
    """Return the intervals of the value of step `number`, tightened by CROWN for the entries `wanted` (N,...)."""
    lower, upper, wanted = (each.flatten(1) for each in (box.lower.clone(), box.upper.clone(), wanted))
    entries = wanted.any(0).nonzero().squeeze(1)
    for part in _parts(network, len(entries), 2 * lower.dtype.itemsize, lower.device):
        some = entries[part]
        rows = lower.new_zeros(len(some), lower.shape[1]).scatter_(1, some[:, None], 1.0)
        rows, constant, before = elide(network, rows.view(-1, *network.shape(number)), number)
        for sample in range(len(lower)):
            own = wanted[sample, some]
            ends = torch.cat([rows[own], -rows[own]])  # an upper bound is a lower bound of the negative
            below, above = crown(network, region, lines, ends, slice(sample, sample + 1), before).chunk(2)
            lower[sample, some[own]] = lower[sample, some[own]].maximum(below + constant[own])
            upper[sample, some[own]] = upper[sample, some[own]].minimum(constant[own] - above)
    # The ends of a value that cannot change may cross by rounding.
    return Interval(lower.minimum(upper).view_as(box.lower), upper.maximum(lower).view_as(box.upper))


def _mixes(network: Network) -> list[int]:
    """Return for each value a count of the mixing and nonlinear steps before it; up to 1, plain intervals are exact already."""
    counts, bent = [0], [False]  # bent: whether the value depends on an activation or a max pooling
    for step in network.steps:
        if isinstance(step.layer, Monotone):
            counts.append(0)  # its interval follows exactly from the tightened one of its input
        else:
            before = max(counts[k] for k in step.inputs) + any(bent[k] for k in step.inputs)
            counts.append(before + step.layer.mixes)
        bent.append(isinstance(step.layer, Monotone | MaxPool) or any(bent[k] for k in step.inputs))
    return counts


def _parts(network: Network, count: int, itemsize: int, device: torch.device) -> Iterator[slice]:
    """Return slices of `count` rows that fit into memory."""
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
    """Return lower bounds of the margins of a plain network within `threat`, and which samples they certify.

        bounds = certify_bounds(model, images, labels, "linf:2/255")
        bounds.certified.float().mean()  # at most the robust accuracy under any attack

    Args:
        model: takes [0, 1] pixels; it is not changed.
        x: N,C,H,W in [0, 1]. y: the labels, N.
        method: ibp, only intervals; crown_ibp, linear bounds over these intervals; crown, the tightest and slowest.
        progress: show progress on stderr.

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
    check_plain(model)
    _check_precision(model)
    with as_input_error(f"bounds need a network of PyTorch layers, and {type(model).__name__} is none"):
        exact = copy.deepcopy(model).to(device, torch.float64).eval()
    network = read(trace(exact), x[:1])
    wider = threat.at(threat.eps * (1 + BALL) + BALL)
    margins, certified = [], []
    with Bar(len(x), f"bounds ({method})", "image", show=progress) as bar:
        for part in _samples(network, len(x)):
            logits = _agreed(network, exact, x[part], y[part])
            bounds = _margins(network, Region(x[part], wider), y[part], method)
            tie = VERDICT_TIE * logits.abs().amax(1, keepdim=True)
            margins.append(bounds)
            certified.append((bounds > tie).all(1))
            bar.advance(len(bounds), f"{sum(int(each.sum()) for each in certified)} certified")
    return Bounds(torch.cat(margins), torch.cat(certified), method)


def check(threat: ThreatModel, method: str = "crown") -> None:
    """Raise InputError for a threat model or a method for which there are no bounds."""
    if method not in METHODS:
        raise unknown("method of bounds", method, METHODS)
    if threat.norm not in ("linf", "l2"):
        raise InputError(f"bounds do not know the norm {threat.norm}: take linf or l2")
    if threat.eps == 0:
        raise InputError("bounds at eps 0 say no more than the clean accuracy: give `eps` above 0, such as `eps=2/255`")


def _check_precision(model: nn.Module) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"the model's weights are {str(tensor.dtype).removeprefix('torch.')}, and bounds are about a network in fp32: "
                "certify and attack `model.float()`"
            )


def _samples(network: Network, count: int) -> Iterator[slice]:
    """Return slices of the samples, so that all intervals and lines of one slice fit into memory."""
    values = sum(network.shape(number).numel() for number in range(len(network.steps) + 1))
    size = max(1, min(100, 10 * ROOM["cpu"] // (values * 8)))
    return (slice(start, start + size) for start in range(0, count, size))


def _agreed(network: Network, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the logits N,K. Raises InputError if the network as read gives other logits than the model."""
    with frozen(model):
        expected = logits_of(model(x.clone()))
    check_logits(expected, y)
    logits = network(x)
    if logits.shape != expected.shape or (logits - expected).abs().amax() > AGREES * expected.abs().amax():
        raise InputError(
            f"{type(model).__name__} is no plain network: its layers, one after another, do not give its logits; perhaps it is "
            "random, or overwrites its own values; `sigma` certifies any model that was trained with noise"
        )
    return logits


def _margins(network: Network, region: Region, y: Tensor, method: Method) -> Tensor:
    """Return lower bounds of z_y - z_k: N,K, inf for k = y; the best of the chosen method and of those before it."""
    margins = interval_margins(network, region, intervals(network, region), y)
    others = torch.ones_like(margins, dtype=torch.bool).scatter_(1, y[:, None], False)
    samples, classes = others.nonzero(as_tuple=True)
    for through_crown in (False, True)[: METHODS.index(method)]:
        lines = tightened(network, region, through_crown=through_crown)
        for part in _parts(network, len(samples), margins.itemsize, margins.device):
            of, other = samples[part], classes[part]
            rows = differences(y[of], other, margins.shape[1], margins.dtype)
            rows, constant, before = elide(network, rows, len(network.steps))
            lower = crown(network, region, lines, rows, of, before)
            margins[of, other] = margins[of, other].maximum(lower + constant)
    return margins.masked_fill(~others, torch.inf)
