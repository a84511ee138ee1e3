"""Random numbers per sample instead of per batch: each sample has its own stream, the same on CPU and on CUDA.

The random numbers that an attack draws for a sample depend only on the seed, on the purpose of the attack and on the sample.
They do not depend on the batch size, nor on the other samples in the batch or in the run.
"""

import math

import torch
from torch import Generator, Tensor

from robustcls.core.seeds import mix

# SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195) in int64, where products wrap around.
GAMMA = 0x9E3779B97F4A7C15 - 2**64  # increment from one number of a draw to the next
STRIDE = 0xD1342543DE82EF95 - 2**64  # increment from one draw of a stream to the next
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))


def _scramble(bits: Tensor) -> Tensor:
    """Mix the bits of each int64 in place, so that every output bit depends on all input bits."""
    for shift, factor in ROUNDS:
        bits.bitwise_xor_((bits >> shift).bitwise_and_(2 ** (64 - shift) - 1))  # logical shift
        if factor != 1:
            bits.mul_(factor)
    return bits


class SampleGenerator(Generator):
    """A torch generator that also has a separate stream for each of N samples; `Draws` draws from these streams.

    Passed to functions of torch, it works like any other generator: they draw per batch.
    """

    def __new__(cls, streams: Tensor, *_: object) -> "SampleGenerator":
        return super().__new__(cls, streams.device)  # type: ignore[call-arg]

    def __init__(self, streams: Tensor, rows: Tensor | None, seed: int, common: int) -> None:
        """streams: int64, the state of each stream. rows: indices N of the streams of this batch; None for all streams.

        seed: for torch's own functions. common: a seed for random numbers that all samples of a run share.
        """
        self.streams, self.rows, self.common, self.taken = streams, rows, common, 0
        self.manual_seed(seed)

    @classmethod
    def of(cls, samples: Tensor, seed: int, device: torch.device | str = "cpu") -> "SampleGenerator":
        """Create the streams of samples. samples: N non-negative whole numbers that identify the samples."""
        streams = samples.to(device, torch.int64).add(1).mul_(GAMMA).add_(mix(seed))
        return cls(_scramble(streams), None, mix(seed, int(samples[0]) if len(samples) else 0), mix(seed))

    def __len__(self) -> int:
        return len(self.streams if self.rows is None else self.rows)

    def take(self, rows: Tensor) -> "SampleGenerator":
        """Return a generator for some rows of the batch (indices, or N bool), whose streams continue from their state."""
        own = torch.arange(len(self.streams), device=self.device) if self.rows is None else self.rows
        self.taken += 1
        return SampleGenerator(self.streams, own[rows], mix(self.initial_seed(), self.taken), self.common)

    def advance(self) -> Tensor:
        """Advance each stream and return a key for its next draw: N."""
        if self.rows is None:
            keys = self.streams.clone()
            self.streams.add_(STRIDE)
        else:
            keys = self.streams[self.rows]
            self.streams[self.rows] = keys + STRIDE
        return _scramble(keys)


def take(generator: Generator | None, rows: Tensor) -> Generator | None:
    """Return the generator for some rows of the batch (indices, or N bool). For attacks that drop samples."""
    return generator.take(rows) if isinstance(generator, SampleGenerator) else generator


class Draws:
    """Random tensors N,*shape for a batch x (N,C,H,W), with the dtype and device of x.

    With a SampleGenerator for N samples, each sample draws from its own stream. Otherwise all draw from one, as in torch.
    """

    def __init__(self, x: Tensor, generator: Generator | None) -> None:
        self.x, self.generator = x, generator
        self.own = generator if isinstance(generator, SampleGenerator) and len(generator) == len(x) else None
        self.digits = 53 if x.dtype == torch.float64 else 24  # random bits per number

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return uniform random numbers between low and high."""
        if self.own is None:
            return self._empty(shape).uniform_(low, high, generator=self.generator)
        return self._unit(shape).mul_(high - low).add_(low)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers, by inversion of the distribution function; within 5 sigma in float32."""
        if self.own is None:
            return self._empty(shape).normal_(generator=self.generator)
        odd = (self._bits(shape) >> (64 - self.digits)).bitwise_or_(1)  # odd numbers exclude -1 and 1
        return odd.to(self.x.dtype).mul_(2.0 ** (1 - self.digits)).erfinv_().mul_(math.sqrt(2))

    def exponential(self, *shape: int) -> Tensor:
        """Return exponentially distributed numbers with mean 1."""
        if self.own is None:
            return self._empty(shape).exponential_(generator=self.generator)
        return self._unit(shape).neg_().log1p_().neg_()

    def coins(self, *shape: int) -> Tensor:
        """Return True or False with equal probability."""
        if self.own is None:
            return self.uniform(*shape) < 0.5
        return self._bits(shape) < 0

    def _unit(self, shape: tuple[int, ...]) -> Tensor:
        """Return uniform random numbers in [0, 1), computed without rounding."""
        return (self._bits(shape) >> (64 - self.digits)).to(self.x.dtype).mul_(2.0**-self.digits).add_(0.5)

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        assert self.own is not None
        places = torch.arange(1, math.prod(shape) + 1, device=self.x.device).mul_(GAMMA)
        return _scramble(self.own.advance()[:, None] + places).view(len(self.x), *shape)

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return self.x.new_empty(len(self.x), *shape)
