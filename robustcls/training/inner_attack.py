"""The attack inside an objective."""

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, kl
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import takes, traits_of
from robustcls.runtime.fused import SearchTwin


def load_whole(spec: str) -> Callable[..., Tensor]:
    """The attack of a spec as training runs it: one that takes soft labels goes to its last step unless the spec says else."""
    attack, given = plugins.load("attack", spec), dict(plugins.parse("attack", spec).options)
    if traits_of(attack).soft_labels and takes(attack, "early_stop") and "early_stop" not in given:
        return partial(attack, early_stop=False)
    return attack


class InnerAttack:
    """An attack of training by its spec, made on a model's twin with the loss that the objective asks for."""

    def __init__(self, spec: str, objective: str, threat: ThreatModel) -> None:
        self.spec, self.objective, self.threat = spec, objective, threat
        self.function = load_whole(spec)
        if traits_of(self.function).keeps_label:
            raise InputError(f"--adv {spec} keeps the label, so there is nothing to train against: give --adv pgd")
        threat.check_options(spec, plugins.resolved("attack", spec))
        self.parameters = inspect.signature(self.function).parameters

    def __call__(
        self,
        twin: SearchTwin,
        x: Tensor,
        y: Tensor,
        *,
        loss: Callable[..., Tensor] = cross_entropy,
        generator: Generator,
        halvings: int = 0,
    ) -> Tensor:
        """x_adv. loss=kl: away from the model's own clean prediction. halvings: of the attack's usual step size.

        Raises InputError for a loss or labels that the attack cannot take.
        """
        self._check(loss, y)
        options = {} if loss is cross_entropy else {"loss": loss}
        if halvings and "step_size" in self.parameters:
            options["step_size"] = self.step_size / 2**halvings
        twin.refresh()
        with torch.autocast(x.device.type, enabled=False):
            if loss is kl:
                with torch.no_grad():
                    y = twin(x)
            return self.function(twin, x, y, self.threat, generator=generator, **options).detach()

    @property
    def step_size(self) -> float:
        """In pixel values, as the spec has it; where it leaves that open, as `pgd` and the single-step attacks do."""
        given = self.parameters["step_size"].default
        if given is not None:
            return float(given)
        return (
            2.5 * self.threat.eps / self.parameters["steps"].default if "steps" in self.parameters else self.threat.eps
        )

    def _check(self, loss: Callable[..., Tensor], y: Tensor) -> None:
        if loss is not cross_entropy and "loss" not in self.parameters:
            raise InputError(f"objective {self.objective} needs an inner attack that takes its loss: give --adv pgd")
        if loss is kl and "random_start" in self.parameters and not self.parameters["random_start"].default:
            raise InputError(
                f"{self.spec} starts at the clean image, where {self.objective} has no gradient: "
                f"give --adv {plugins.parse('attack', self.spec).name}(random_start=True)"
            )
        if (loss is kl or y.is_floating_point()) and not traits_of(self.function).soft_labels:
            raise InputError(f"{self.spec} needs one label an image: give --adv pgd, fgsm or n_fgsm")
