"""One attack over many samples: in batches that fit, on the fast model first, verified in fp32, by one process or several."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from shlex import quote
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attacks._pool import others_of
from robustcls.core import plugins
from robustcls.core.classifier import device_of
from robustcls.core.draws import SampleGenerator
from robustcls.core.errors import InputError
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import takes, traits_of
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.verify import Found, join, verify
from robustcls.runtime.fused import Counted, make_search_model
from robustcls.runtime.memory import Parts
from robustcls.runtime.predict import predict
from robustcls.runtime.world import World

COMPARED = 32  # samples on which the search model must agree with the model


class AttackError(Exception):
    """An attack failed on an error of its own; the message is one line."""


class TimeUp(AttackError):
    """An attack was stopped, for its time is up; the message says by what."""


Over = Callable[[], str]  # by what attacks are stopped now; "" while they may go on


def never() -> str:
    return ""


class Engine:
    """Attacks samples of x (N,C,H,W in [0, 1], CPU) with labels y; the model, and the surrogate, must be frozen.

    index: N whole numbers that name the samples, on which with the seed their random numbers depend, and not on the batch
    or on other samples; their places unless given. surrogate: where given, examples are crafted on it. surrogate_y: its
    labels of the samples, where it numbers the classes in another way. over: asked before each pass of an attack.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        batch_size: int,
        precision: str = "fp32",
        compiled: bool = False,
        seed: int = 0,
        index: Tensor | None = None,
        surrogate: nn.Module | None = None,
        surrogate_y: Tensor | None = None,
        journal: Journal | None = None,
        world: World | None = None,
        over: Over = never,
    ) -> None:
        self.over = over
        self.judge, self.device, self.x, self.y = Counted(model), device_of(model), x, y
        self.batch_size, self.seed, self.journal, self.world = batch_size, seed, journal, world or World()
        self.index = torch.arange(len(x)) if index is None else index
        self.others = others_of(x, y, self.index)  # the same for every batch and process
        self.parts = Parts(batch_size)
        # N,K on the clean images; first, for it finds what memory holds.
        self.logits = predict(self.judge, x, self.parts)
        self.crafts_elsewhere = surrogate is not None
        self.crafted_y = y if surrogate_y is None else surrogate_y
        self.earlier_seconds = 0.0  # of batches that the journal knew
        self.exact = exact = (
            self.judge if surrogate is None else Counted(surrogate)
        )  # whose gradients the attacks follow
        compared = x[: min(self.parts.size, COMPARED)].to(self.device)
        search = make_search_model(exact.model, precision, compared, compiled=compiled)
        # What low precision could not break is attacked again in fp32 before it is called robust.
        self.searches = [search, exact] if precision != "fp32" and not isinstance(search, Counted) else [search]

    def load(self, spec: str) -> tuple[Callable[..., Tensor], dict[str, Any]]:
        """The attack, and every option with the value that it runs with.

        A sample that is fooled may leave the attack at once, unless the example must fool another model than this.
        """
        attack, options = plugins.load("attack", spec), plugins.resolved("attack", spec)
        if "early_stop" in options and "early_stop" not in dict(plugins.parse("attack", spec).options):
            options["early_stop"] = not self.crafts_elsewhere
            attack = partial(attack, early_stop=options["early_stop"])
        return attack, options

    def batches(self, attack: Callable[..., Tensor], met: Tensor) -> tuple[Tensor, ...]:
        """The samples met (indices) as this attack takes them."""
        if len(met) == 0:
            return ()
        return met.split(len(met) if traits_of(attack).universal else self.batch_size)

    def attack(
        self,
        attack: Callable[..., Tensor],
        met: Tensor,
        threat: ThreatModel,
        stream: tuple[int, ...],
        *,
        start: Tensor | None = None,
        progress: Callable[[Any], Any] = iter,
    ) -> Iterator[Found]:
        """Verified attempts on the samples met (indices), batch by batch.

        stream: names the random numbers. start: N,C,H,W for all samples, from where an attack that can may begin.
        Raises AttackError after the batches that succeeded, TimeUp where it was stopped, and InputError.
        """
        done = self._attack_mine(attack, met, threat, stream, start, progress)
        if self.world.size == 1:
            yield from done
            return
        found, error = [], ""
        try:
            for batch in done:
                found.append(batch)  # noqa: PERF402  # those before an error are kept
        except AttackError as failure:
            error = str(failure)
        everything = self.world.gather((found, error))
        yield from sorted((batch for part, _ in everything for batch in part), key=lambda batch: int(batch.indices[0]))
        for _, message in everything:
            if message:
                raise AttackError(message)

    def _attack_mine(self, attack, met, threat, stream, start, progress) -> Iterator[Found]:
        for indices in progress(self.world.mine(self.batches(attack, met))):
            name = "-".join(map(str, (*stream, int(indices[0]))))
            found = self.journal.read(name, indices) if self.journal else None
            if found is not None:
                self.earlier_seconds += found.seconds
            else:
                found = self._attack_batch(attack, indices, threat, stream, start)
                if self.journal:
                    self.journal.write(name, found)
            yield found

    def _attack_batch(self, attack, indices: Tensor, threat: ThreatModel, stream, start) -> Found:
        try:
            if traits_of(attack).universal:
                return self._attack_part(attack, indices, threat, stream, start)
            return join(
                list(self.parts.map(lambda part: self._attack_part(attack, part, threat, stream, start), indices))
            )
        except (InputError, TimeUp):
            raise
        except Exception as failure:
            lines = str(failure).splitlines() or ["no message"]
            raise AttackError(f"{type(failure).__name__}: {lines[0]}") from failure

    def _attack_part(self, attack, indices: Tensor, threat: ThreatModel, stream, start: Tensor | None) -> Found:
        began, counted, last = time.perf_counter(), self._counts(), self.searches[-1]
        not_finite = last.not_finite  # an overflow in low precision is no fault of the model, and fp32 comes after it
        x, y = self.x[indices].to(self.device), self.crafted_y[indices].to(self.device)
        found = None
        # Of a nearest example the distance counts too, which low precision blurs.
        for search in self.searches[-1:] if traits_of(attack).minimum_norm else self.searches:
            rows = torch.arange(len(indices)) if found is None else (~found.fooled).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            generator = SampleGenerator.of(self.index[indices[rows]], mix(self.seed, *stream), self.device)
            begin = {} if start is None else {"start": start[indices[rows]].to(self.device)}
            if takes(attack, "others"):
                begin["others"] = self.others
            with self._in_time(search):
                x_adv = attack(search, x[rows], y[rows], threat, generator=generator, **begin)
            if x_adv.shape != x[rows].shape:
                raise ValueError(f"it gave {tuple(x_adv.shape)} for images {tuple(x[rows].shape)}")
            judged = self._verify(x_adv.detach().float(), indices[rows], threat)
            if found is None:
                found = judged
            else:
                found.take_better(judged, rows)
        assert found is not None
        forwards, backwards = (now - before for now, before in zip(self._counts(), counted, strict=True))
        found.forwards, found.backwards, found.seconds = forwards, backwards, time.perf_counter() - began
        found.not_finite = last.not_finite - not_finite
        return found

    @contextmanager
    def _in_time(self, search: nn.Module) -> Iterator[None]:
        """In it, a pass of the model raises TimeUp once the time is up."""

        def stop(*_: object) -> None:
            if reason := self.over():
                raise TimeUp(reason)

        hook = search.register_forward_pre_hook(stop)
        try:
            yield
        finally:
            hook.remove()

    def _verify(self, x_adv: Tensor, indices: Tensor, threat: ThreatModel) -> Found:
        size = self.parts.size
        return join([
            verify(self.judge, part, self.x[samples].to(self.device), self.y[samples].to(self.device), threat, samples)
            for part, samples in zip(x_adv.split(size), indices.split(size), strict=True)
        ])  # fmt: skip

    def _counts(self) -> tuple[int, int]:
        counters = {id(model): model for model in (*self.searches, self.judge)}.values()
        return sum(model.forwards for model in counters), sum(model.backwards for model in counters)


def check_attacks(
    attacks: Sequence[str],
    model: nn.Module,
    surrogate: nn.Module | None,
    threat: ThreatModel,
    eps_grid: Sequence[float] = (),
) -> None:
    """Raises InputError for an attack that cannot be run, before hours of work for the others."""
    source = surrogate if surrogate is not None else model
    for spec in attacks:
        threat.check_options(spec, plugins.resolved("attack", spec))
        traits = traits_of(plugins.load("attack", spec))
        if traits.training_only:
            raise InputError(
                f"{spec} leaves the ball on purpose, to train on: judge with --attack fgsm or --attack pgd"
            )
        if traits.keeps_label:
            raise InputError(
                f"{spec} keeps the label, so it says nothing of accuracy: "
                f"give it to `robustcls explain --attack {quote(spec)}`"
            )
        if traits.gradients and not getattr(source, "differentiable", True):
            raise InputError(
                f"{spec} needs gradients, which this model does not give: "
                "use --attack square or --attack noise, or craft on another model with --transfer-from"
            )
        if traits.unrestricted:
            threat.check_whole_box(spec)
        if traits.unrestricted and any(eps < 1 for eps in eps_grid):
            raise InputError(f"{spec} leaves every small ball: it has no curve over radii: leave --eps-grid away")
