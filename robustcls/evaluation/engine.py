"""Run one attack on many samples: in batches that fit memory, on the fast model first, verified in fp32, in any number of
processes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attacks._goal import Goal
from robustcls.attacks._nearest import others_of
from robustcls.attacks._run import fault_of
from robustcls.attacks._targets import cannot_aim
from robustcls.core.classifier import device_of
from robustcls.core.draws import SampleGenerator
from robustcls.core.eight_bits import takes_eight_bits, whole_levels
from robustcls.core.errors import InputError
from robustcls.core.gradients import kept_from
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import takes_target
from robustcls.evaluation.attacks import AttackLike, NamedAttack, as_attack
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.subject import Subject
from robustcls.evaluation.verify import Attempts, join, verify
from robustcls.models.wrappers.averaged import averaged_in, restart
from robustcls.runtime.fused import Counted, FusedModel
from robustcls.runtime.memory import OomSafeBatches
from robustcls.runtime.predict import predict
from robustcls.runtime.search import make_search_model
from robustcls.runtime.world import World

COMPARED = 32  # samples on which the fast copy of the model must agree with the model


class AttackError(Exception):
    """An attack raised an error; the message is one line."""


class TimeUp(AttackError):
    """An attack was stopped because its time is used up; the message names the limit."""


Over = Callable[[], str]  # returns why attacks must stop now, or "" while they may continue


def never() -> str:
    """Return "": without a time limit, attacks may always continue."""
    return ""


@dataclass(eq=False)
class Engine:
    """Run attacks on the samples of a subject, whose models must be frozen.

    over: called before each pass of an attack; the attack is stopped once it returns a reason.
    """

    subject: Subject
    batch_size: int
    precision: str = "fp32"
    compiled: bool = False
    seed: int = 0
    journal: Journal | None = None
    world: World = field(default_factory=World)
    over: Over = never
    earlier_seconds: float = 0.0  # seconds that batches read from the journal had taken

    def __post_init__(self) -> None:
        self.x, self.y, self.threat = self.subject.x, self.subject.y, self.subject.threat
        self.device = device_of(self.subject.model)
        self.parts = OomSafeBatches(self.batch_size)
        self.model = Counted(self.subject.model)  # the evaluated model, which decides whether an attempt succeeds
        restart(self.subject.model, self.seed)
        # The model whose gradients the attacks use.
        self.source = self.model if self.subject.surrogate is None else Counted(self.subject.source)

    @cached_property
    def logits(self) -> Tensor:
        """Logits on the clean images, N,K."""
        return predict(self.model, self.x, self.parts)

    @cached_property
    def rejected(self) -> Tensor:
        """Whether the detector rejects each clean image: N, bool; False without a detector."""
        if (detector := self.subject.detector) is None:
            return torch.zeros(len(self.y), dtype=torch.bool)
        pairs = zip(self.x.split(self.parts.size), self.logits.split(self.parts.size), strict=True)
        return torch.cat([detector.rejects(x.to(self.device), logits.to(self.device)).cpu() for x, logits in pairs])

    @cached_property
    def others(self) -> Any:
        """Images of other samples that attacks may begin from, the same for every batch and process."""
        return others_of(self.x, self.y, self.subject.index)

    @cached_property
    def searches(self) -> list[FusedModel | Counted]:
        """The models that attacks run on, in turn: the fast copy and, in low precision, then the fp32 model.

        Samples that are adversarial in low precision but not in fp32 are attacked again in fp32.
        """
        assert self.logits is not None  # compute these first, because that pass finds the batch size that fits memory
        compared = self.x[: min(self.parts.size, COMPARED)].to(self.device)
        search = make_search_model(self.source.model, self.precision, compared, compiled=self.compiled)
        repeat_in_fp32 = self.precision != "fp32" and not isinstance(search, Counted)
        return [search, self.source] if repeat_in_fp32 else [search]

    def prepare(self, attack: AttackLike) -> NamedAttack:
        """Return the attack with early_stop set, unless the user gave it.

        A sample leaves with the first example that succeeds, except where the example must fool another model (transfer) or
        other draws of a random model.
        """
        attack = as_attack(attack)
        if "early_stop" in attack.options and "early_stop" not in attack.given:
            return attack.but(early_stop=self.subject.surrogate is None and not averaged_in(self.subject.model))
        return attack

    def attack(
        self,
        attack: AttackLike,
        rows: Tensor,
        threat: ThreatModel,
        stream: tuple[int, ...],
        *,
        start: Tensor | None = None,
        progress: Callable[[Any], Any] = iter,
    ) -> Iterator[Attempts]:
        """Yield verified attempts on the samples at these rows, batch by batch.

        Args:
            stream: identifies the random numbers of this attack.
            start: N,C,H,W for all samples; attacks that take a start begin there.

        Raises:
            AttackError: if the attack fails, after the batches before the failure were yielded.
            TimeUp: if the time is used up.
            InputError: if the attack refuses an option or the target.
        """
        attempts = self._attack_own_batches(self.prepare(attack), rows, threat, stream, start, progress)
        if self.world.size == 1:
            yield from map(partial(self.note, norm=threat.norm), attempts)
            return
        own, error = [], ""
        try:
            for batch in attempts:
                own.append(batch)  # noqa: PERF402  # a list comprehension would lose the batches before an error
        except AttackError as failure:
            error = str(failure)
        gathered = self.world.gather((own, error))
        batches = sorted((batch for part, _ in gathered for batch in part), key=lambda batch: int(batch.indices[0]))
        yield from map(partial(self.note, norm=threat.norm), batches)
        for _, message in gathered:
            if message:
                raise AttackError(message)

    def note(self, attempts: Attempts, norm: str) -> Attempts:
        """Compare the attempts with the model's certificates, if it has any, and return them. norm: of their distances."""
        if (certificates := self.subject.certificates) is not None:
            certificates.note(self.subject.model, norm, self.subject.index[attempts.indices], attempts)
        return attempts

    def _attack_own_batches(
        self, attack: NamedAttack, rows: Tensor, threat, stream, start, progress
    ) -> Iterator[Attempts]:
        """Yield the attempts of this process's share of the batches, from the journal where it has them."""
        size = len(rows) if attack.traits.universal else self.batch_size
        for indices in progress(self.world.mine(rows.split(size) if len(rows) else ())):
            name = "-".join(map(str, (*stream, int(indices[0]))))
            attempts = self.journal.read(name, indices, self.x) if self.journal else None
            if attempts is not None:
                self.earlier_seconds += attempts.seconds
            else:
                attempts = self._attack_batch(attack, indices, threat, stream, start)
                if self.journal:
                    self.journal.write(name, attempts, self.x)
            yield attempts

    def _attack_batch(self, attack: NamedAttack, indices: Tensor, threat: ThreatModel, stream, start) -> Attempts:
        try:
            if attack.traits.universal:
                return self._attack_part(attack, indices, threat, stream, start)
            parts = self.parts.map(lambda part: self._attack_part(attack, part, threat, stream, start), indices)
            return join(list(parts))
        except (InputError, TimeUp):
            raise
        except Exception as failure:
            lines = str(failure).splitlines() or ["no message"]
            raise AttackError(f"{type(failure).__name__}: {lines[0]}") from failure

    def _attack_part(self, attack: NamedAttack, indices: Tensor, threat: ThreatModel, stream, start) -> Attempts:
        searches = self.searches
        began, counted, last = time.perf_counter(), self._counts(), searches[-1]
        not_finite = last.not_finite  # counted in fp32 only: an overflow in low precision says nothing about the model
        x, y = self.x[indices].to(self.device), self.subject.source_y[indices].to(self.device)
        target = self.subject.aim.target[indices].to(self.device) if self.subject.aim else None
        if target is not None and not takes_target(attack.function):
            raise InputError(cannot_aim(attack.text))
        searched = whole_levels(threat) if takes_eight_bits(self.model, threat) else threat
        best, not_finite_before = None, searches[0].not_finite
        restart(self.subject.model, self.seed, *stream, int(indices[0]))  # the same draws in whichever process it runs
        # Minimum-norm attacks run in fp32 only, because low precision makes the distances inexact.
        for search in searches[-1:] if attack.traits.minimum_norm else searches:
            rows = torch.arange(len(indices))
            if best is not None:
                overflowed = searches[0].not_finite > not_finite_before
                failed = ~best.success
                again = failed if overflowed else failed & self._fools_search_model(best.x_adv, Goal.of(y, target))
                rows = again.nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            options: dict[str, Any] = {} if start is None else {"start": start[indices[rows]].to(self.device)}
            if attack.takes("others"):
                options["others"] = self.others
            if target is not None:
                options["target"] = target[rows]
            if attack.takes("detector"):
                options["detector"] = self.subject.detector
            if attack.takes("generator"):
                options["generator"] = SampleGenerator.of(
                    self.subject.index[indices[rows]], mix(self.seed, *stream), self.device
                )
            with self._stopped_in_time(search), kept_from(search) if attack.is_own else nullcontext():
                x_adv = attack.function(search, x[rows], y[rows], searched, **options)
            if fault := fault_of(x_adv, x[rows]):
                raise ValueError(fault)
            attempts = self._verify(x_adv.detach().float(), indices[rows], threat)
            if best is None:
                best = attempts
            else:
                best.take_better(attempts, rows)
        assert best is not None
        best.forwards, best.backwards = (now - before for now, before in zip(self._counts(), counted, strict=True))
        best.seconds, best.not_finite = time.perf_counter() - began, last.not_finite - not_finite
        return best

    @torch.no_grad()
    def _fools_search_model(self, x_adv: Tensor, goal: Goal) -> Tensor:
        """Whether each image is adversarial for the first of the search models: N, bool, on the CPU."""
        parts = zip(x_adv.split(self.parts.size), goal.labels.split(self.parts.size), strict=True)
        return torch.cat([goal.reached(self.searches[0](part.to(self.device)), labels).cpu() for part, labels in parts])

    @contextmanager
    def _stopped_in_time(self, search: nn.Module) -> Iterator[None]:
        """Inside this context, a forward pass of the model raises TimeUp once the time is used up."""

        def stop(*_: object) -> None:
            if reason := self.over():
                raise TimeUp(reason)

        hook = search.register_forward_pre_hook(stop)
        try:
            yield
        finally:
            hook.remove()

    def _verify(self, x_adv: Tensor, indices: Tensor, threat: ThreatModel) -> Attempts:
        size, aim = self.parts.size, self.subject.aim
        return join([
            verify(
                self.model, part, self.x[rows].to(self.device), self.y[rows].to(self.device), threat, rows,
                self.subject.detector, target=aim.target[rows].to(self.device) if aim else None,
            )
            for part, rows in zip(x_adv.split(size), indices.split(size), strict=True)
        ])  # fmt: skip

    def _counts(self) -> tuple[int, int]:
        counters = {id(model): model for model in (*self.searches, self.model)}.values()
        return sum(model.forwards for model in counters), sum(model.backwards for model in counters)
