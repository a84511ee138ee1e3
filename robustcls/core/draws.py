"""Random numbers that belong to a sample, not to its batch: a stream for each, the same on a CPU and on CUDA.

So what an attack draws for a sample depends on the seed, on what the attack is for and on the sample alone: not on the
batch size, nor on which other samples are in the batch, have left it, or are in the run at all.
"""

import math

import torch
from torch import Generator, Tensor

from robustcls.core.seeds import mix

# SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195), in int64, whose products wrap.
GAMMA = 0x9E3779B97F4A7C15 - 2**64  # from one number of a draw to the next
STRIDE = 0xD1342543DE82EF95 - 2**64  # from one draw of a stream to the next
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))


def _scramble(bits: Tensor) -> Tensor:
    """Every bit of each int64 depends on all of its bits; in place."""
    for shift, factor in ROUNDS:
        bits.bitwise_xor_((bits >> shift).bitwise_and_(2 ** (64 - shift) - 1))  # a shift that lets zeros in
        if factor != 1:
            bits.mul_(factor)
    return bits


class SampleGenerator(Generator):
    """A generator that also holds a stream of its own for each of N samples, from which `Draws` takes.

    torch's own functions take it as any generator: what they draw belongs to the batch.
    """

    def __new__(cls, streams: Tensor, *_: object) -> "SampleGenerator":
        return super().__new__(cls, streams.device)  # type: ignore[call-arg]

    def __init__(self, streams: Tensor, rows: Tensor | None, seed: int, common: int) -> None:
        """streams: int64, the state of each stream. rows: those that are of this batch, N; None for all.

        seed: of what torch's own functions draw. common: a seed for what all samples, of this batch or not, shall share.
        """
        self.streams, self.rows, self.common, self.taken = streams, rows, common, 0
        self.manual_seed(seed)

    @classmethod
    def of(cls, samples: Tensor, seed: int, device: torch.device | str = "cpu") -> "SampleGenerator":
        """samples: N whole numbers, not negative, that name the samples: each has one stream for one seed."""
        streams = samples.to(device, torch.int64).add(1).mul_(GAMMA).add_(mix(seed))
        return cls(_scramble(streams), None, mix(seed, int(samples[0]) if len(samples) else 0), mix(seed))

    def __len__(self) -> int:
        return len(self.streams if self.rows is None else self.rows)

    def take(self, rows: Tensor) -> "SampleGenerator":
        """The same streams for some rows of the batch (indices, or N bool) alone, which continue from their state."""
        own = torch.arange(len(self.streams), device=self.device) if self.rows is None else self.rows
        self.taken += 1
        return SampleGenerator(self.streams, own[rows], mix(self.initial_seed(), self.taken), self.common)

    def advance(self) -> Tensor:
        """A key for the next draw of each stream: N."""
        if self.rows is None:
            keys = self.streams.clone()
            self.streams.add_(STRIDE)
        else:
            keys = self.streams[self.rows]
            self.streams[self.rows] = keys + STRIDE
        return _scramble(keys)


def take(generator: Generator | None, rows: Tensor) -> Generator | None:
    """The generator for these rows of the batch (indices, or N bool): for an attack that drops samples."""
    return generator.take(rows) if isinstance(generator, SampleGenerator) else generator


class Draws:
    """What is drawn at random for a batch x (N,C,H,W), as tensors N,*shape of its type, on its device.

    Of a SampleGenerator for so many samples each sample draws from its own stream; else all draw from one, as torch does.
    """

    def __init__(self, x: Tensor, generator: Generator | None) -> None:
        self.x, self.generator = x, generator
        self.own = generator if isinstance(generator, SampleGenerator) and len(generator) == len(x) else None
        self.digits = 53 if x.dtype == torch.float64 else 24  # binary ones, of what a draw may come to

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Between low and high."""
        if self.own is None:
            return self._empty(shape).uniform_(low, high, generator=self.generator)
        return self._unit(shape).mul_(high - low).add_(low)

    def normal(self, *shape: int) -> Tensor:
        """Of mean 0 and deviation 1, by the inverse of the distribution; within 5 deviations in float32."""
        if self.own is None:
            return self._empty(shape).normal_(generator=self.generator)
        odd = (self._bits(shape) >> (64 - self.digits)).bitwise_or_(1)  # so that neither end of (-1, 1) occurs
        return odd.to(self.x.dtype).mul_(2.0 ** (1 - self.digits)).erfinv_().mul_(math.sqrt(2))

    def exponential(self, *shape: int) -> Tensor:
        """Of mean 1."""
        if self.own is None:
            return self._empty(shape).exponential_(generator=self.generator)
        return self._unit(shape).neg_().log1p_().neg_()

    def coins(self, *shape: int) -> Tensor:
        """True or false, each as likely."""
        if self.own is None:
            return self.uniform(*shape) < 0.5
        return self._bits(shape) < 0

    def _unit(self, shape: tuple[int, ...]) -> Tensor:
        """From 0 to below 1, without rounding."""
        return (self._bits(shape) >> (64 - self.digits)).to(self.x.dtype).mul_(2.0**-self.digits).add_(0.5)

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        assert self.own is not None
        places = torch.arange(1, math.prod(shape) + 1, device=self.x.device).mul_(GAMMA)
        return _scramble(self.own.advance()[:, None] + places).view(len(self.x), *shape)

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return self.x.new_empty(len(self.x), *shape)
