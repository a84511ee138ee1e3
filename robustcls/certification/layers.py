"""The layers that can be bounded: each as a function, on intervals, and as linear bounds for CROWN's backward pass.

`lower` and `upper` bound each entry of a layer's input for every image of a region; they have the shape of the input, N,...
In the backward pass a bound is a row: coefficients A on a layer's output, R,..., for the sample `of`. The layer turns it into a
row on its input, whose value is never larger than A times the output. Layers use the network's own weights, so bounds have
gradients with respect to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

Of = Tensor | slice  # the sample of each row, R; or a slice with one sample, which all rows are for


class Interval(NamedTuple):
    """Bounds of each entry, N,..., for every image of the sample's region. `&` intersects two intervals."""

    lower: Tensor
    upper: Tensor

    def __and__(self, other: "Interval") -> "Interval":
        return Interval(self.lower.maximum(other.lower), self.upper.minimum(other.upper))


class Layer:
    """The interface of layers. The result of `lines` is computed once and used for all rows."""

    mixes = True  # each output depends on several inputs, so that its interval is looser than a linear bound

    def __call__(self, *inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def interval(self, *inputs: Interval) -> Interval:
        raise NotImplementedError

    def lines(self, *inputs: Interval) -> Any:
        """Return what `back` needs to know about the intervals of the inputs."""

    def back(self, rows: Tensor, of: Of, lines: Any, shapes: Sequence[torch.Size]) -> tuple[list[Tensor], Tensor]:
        """Turn coefficients R,... of the output into those of each input and a constant R: a lower bound of rows x output.

        shapes: of each input, without the sample dimension.
        """
        raise NotImplementedError


# Affine layers: h = W x + b


class Affine(Layer):
    """An affine layer: its interval is W mu + b +- |W| r, and it is its own lower and upper line."""

    bias: Tensor | None = None  # in a shape that broadcasts to the output's

    def spread(self, radius: Tensor, power: int = 1) -> Tensor:
        """Return |W|^power r, with the power taken entry by entry."""
        raise NotImplementedError

    def transposed(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """Return rows W, with inputs of this shape."""
        raise NotImplementedError

    def interval(self, *inputs: Interval) -> Interval:
        (box,) = inputs
        middle, radius = self((box.upper + box.lower) / 2), self.spread((box.upper - box.lower) / 2)
        return Interval(middle - radius, middle + radius)

    def back(self, rows: Tensor, of: Of, lines: Any, shapes: Sequence[torch.Size]) -> tuple[list[Tensor], Tensor]:
        constant = rows.new_zeros(len(rows)) if self.bias is None else (rows * self.bias).flatten(1).sum(1)
        return [self.transposed(rows, shapes[0])], constant


class Linear(Affine):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight, self.bias)

    def spread(self, radius: Tensor, power: int = 1) -> Tensor:
        return F.linear(radius, self.weight.abs() ** power)

    def transposed(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return F.linear(rows, self.weight.t())


class Conv(Affine):
    """A convolution with zero padding."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> None:
        self.weight, self.shift, self.convolution = weight, bias, (stride, padding, dilation, groups)
        self.bias = None if bias is None else bias.view(-1, 1, 1)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.conv2d(inputs[0], self.weight, self.shift, *self.convolution)

    def spread(self, radius: Tensor, power: int = 1) -> Tensor:
        return F.conv2d(radius, self.weight.abs() ** power, None, *self.convolution)

    def transposed(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return conv2d_input((len(rows), *shape), self.weight, rows, *self.convolution)


class Scale(Affine):
    """Entrywise scaling and shift: normalisation, and BatchNorm in eval mode."""

    mixes = False

    def __init__(self, factor: Tensor, shift: Tensor) -> None:
        """Both in a shape that broadcasts to the input's, without enlarging it."""
        self.factor, self.bias = factor, shift

    def __call__(self, *inputs: Tensor) -> Tensor:
        assert self.bias is not None
        return inputs[0] * self.factor + self.bias

    def spread(self, radius: Tensor, power: int = 1) -> Tensor:
        return radius * self.factor.abs() ** power

    def transposed(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return rows * self.factor


class Mean(Affine):
    """A linear layer with fixed, non-negative weights, so that |W| is W: mean poolings."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.function(inputs[0])

    def spread(self, radius: Tensor, power: int = 1) -> Tensor:
        if power != 1:
            raise NotImplementedError
        return self.function(radius)

    def transposed(self, rows: Tensor, shape: torch.Size) -> Tensor:
        with torch.enable_grad():
            zeros = rows.new_zeros(len(rows), *shape).requires_grad_()
            return torch.autograd.grad(self.function(zeros), zeros, rows, create_graph=rows.requires_grad)[0]


class Shape(Mean):
    """The same entries in another shape or order (flatten, reshape, permute), or unchanged (dropout in eval mode)."""

    mixes = False

    def spread(self, radius: Tensor, power: int = 1) -> Tensor:
        return self.function(radius)


class Add(Layer):
    """The sum of two values of one shape, or with a sign of -1 their difference, as in residual connections."""

    def __init__(self, sign: int = 1) -> None:
        self.sign = sign

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + self.sign * inputs[1]

    def interval(self, *inputs: Interval) -> Interval:
        a, b = inputs
        return Interval(a.lower + b.lower, a.upper + b.upper) if self.sign == 1 else Interval(
            a.lower - b.upper, a.upper - b.lower
        )  # fmt: skip

    def back(self, rows: Tensor, of: Of, lines: Any, shapes: Sequence[torch.Size]) -> tuple[list[Tensor], Tensor]:
        return [rows, self.sign * rows], rows.new_zeros(len(rows))


# Monotone activations: between two lines over the interval of their input


class Lines(NamedTuple):
    """The lines slope x + offset below and above the activation, for each entry: N,..."""

    slope_below: Tensor
    offset_below: Tensor
    slope_above: Tensor
    offset_above: Tensor


@dataclass
class Monotone(Layer):
    """A non-decreasing function, applied entry by entry."""

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]  # at a kink, either one-sided derivative
    kinks: Sequence[float] | None = None  # the function is linear between these; None if it is linear nowhere

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.function(inputs[0])

    def interval(self, *inputs: Interval) -> Interval:
        return Interval(self.function(inputs[0].lower), self.function(inputs[0].upper))

    def bent(self, box: Interval) -> Tensor:
        """Whether the function is not linear over the interval, so that a tighter one gives better lines: N,..., bool."""
        if self.kinks is None:
            return box.lower < box.upper
        within = [(box.lower < kink) & (kink < box.upper) for kink in self.kinks]
        return torch.stack(within).any(0)

    def chord(self, box: Interval) -> Tensor:
        """Return the slope of the chord between both ends; 0 if they are equal, valid for a non-decreasing function."""
        width = box.upper - box.lower
        rise = self.function(box.upper) - self.function(box.lower)
        return torch.where(width > 0, rise / torch.where(width > 0, width, 1.0), 0.0)

    def slopes(self, box: Interval) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the slopes of the lines below and above, and the inputs at which each touches the function."""
        raise NotImplementedError

    def lines(self, *inputs: Interval) -> Lines:
        below, above, touch_below, touch_above = self.slopes(inputs[0])
        return Lines(
            below, self.function(touch_below) - below * touch_below,
            above, self.function(touch_above) - above * touch_above,
        )  # fmt: skip

    def back(self, rows: Tensor, of: Of, lines: Lines, shapes: Sequence[torch.Size]) -> tuple[list[Tensor], Tensor]:
        slope_below, offset_below, slope_above, offset_above = (each[of] for each in lines)
        positive = rows > 0
        constant = (rows * torch.where(positive, offset_below, offset_above)).flatten(1).sum(1)
        return [rows * torch.where(positive, slope_below, slope_above)], constant


class Convex(Monotone):
    """A convex function: the upper line is the chord, u / (u - l) (x - l) for ReLU; the lower line may be any tangent.

    The tangent at the middle is used. For ReLU it is the lower line of CROWN-Ada and DeepPoly: x if u >= -l, else 0.
    """

    def slopes(self, box: Interval) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        middle = (box.lower + box.upper) / 2
        return self.derivative(middle), self.chord(box), middle, box.upper


@dataclass
class Bend(Monotone):
    """A function that is convex up to the input `turn` and concave beyond it: sigmoid, tanh, and clipping on both sides.

    If the interval lies on one side of the turn, one of the lines is the chord. Other lines have the smallest slope of the
    interval, which is at one of its ends; the lower line goes through the lower end, the upper line through the upper end
    (DeepPoly, Singh et al. 2019, for sigmoid and tanh).
    """

    turn: float = 0.0

    def slopes(self, box: Interval) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        least = self.derivative(box.lower).minimum(self.derivative(box.upper))
        below = torch.where(box.lower >= self.turn, self.chord(box), least)
        above = torch.where(box.upper <= self.turn, self.chord(box), least)
        return below, above, box.lower, box.upper


# Max poolings


class Largest(NamedTuple):
    place: Tensor  # N,C,H,W, the entry of each window that is its lower line, as an index into the flattened image
    leads: Tensor  # whether that entry is the largest for every image, so that it is the upper line, too
    most: Tensor  # the largest upper bound in the window, which otherwise is the upper line


class MaxPool(Layer):
    """Max pooling: a window's maximum is at least its entry with the largest lower bound, at most the largest upper bound."""

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> None:
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.max_pool2d(inputs[0], self.kernel, self.stride, self.padding)

    def interval(self, *inputs: Interval) -> Interval:
        return Interval(self(inputs[0].lower), self(inputs[0].upper))

    def bent(self, box: Interval) -> Tensor:
        return box.lower < box.upper

    def lines(self, *inputs: Interval) -> Largest:
        (box,) = inputs
        lower, place = F.max_pool2d(box.lower, self.kernel, self.stride, self.padding, return_indices=True)
        numbers = torch.arange(box.lower[0, 0].numel(), device=lower.device, dtype=lower.dtype)
        numbers = numbers.view(1, 1, *box.lower.shape[2:]).expand_as(box.lower)
        others = self.windows(box.upper, -torch.inf).masked_fill(
            self.windows(numbers, -1) == place[..., None], -torch.inf
        )
        return Largest(place, lower >= others.amax(-1), self(box.upper))

    def windows(self, values: Tensor, outside: float) -> Tensor:
        """Return the entries of each window: N,C,H,W,K."""
        (above, left), (tall, wide) = self.padding, self.kernel
        padded = F.pad(values, (left, left, above, above), value=outside)
        return padded.unfold(2, tall, self.stride[0]).unfold(3, wide, self.stride[1]).flatten(4)

    def back(self, rows: Tensor, of: Of, lines: Largest, shapes: Sequence[torch.Size]) -> tuple[list[Tensor], Tensor]:
        place, leads, most = (each[of] for each in lines)
        through = torch.where(leads, rows, rows.clamp_min(0))
        constant = ((rows - through) * most).flatten(1).sum(1)
        channels, height, width = shapes[0]
        flat = rows.new_zeros(len(rows), channels, height * width)
        flat = flat.scatter_add(2, place.flatten(2).expand(len(rows), -1, -1), through.flatten(2))
        return [flat.view(len(rows), channels, height, width)], constant
